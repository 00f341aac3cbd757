"""The command of a real vLLM, which `make test-vllm` puts into the environment: `VLLM_COMMAND=/envs/vllm/bin/vllm`."""

import os
import shlex

import pytest

COMMAND = shlex.split(os.environ.get("VLLM_COMMAND", ""))

NEEDS_VLLM = [pytest.mark.slow, pytest.mark.skipif(not COMMAND, reason="VLLM_COMMAND is not set")]
"""Marks of tests that start it."""
