"""vLLM's command for the tests that speak to it: a real one, or one that replays what a real one has answered.

`make test-vllm` puts the command of a real one into the environment: `VLLM_COMMAND=/envs/vllm/bin/vllm`. Without it, the
same tests are played against recorded answers.
"""

import os
import shlex
import sys
from pathlib import Path

COMMAND = shlex.split(os.environ.get("VLLM_COMMAND", ""))

RECORD = os.environ.get("RECORD_VLLM")
"""Folder to which the answers of the real one are written, if they are recorded."""

REPLAY = Path(__file__).parent / "vllm_replay"
RECORDED = REPLAY / "recorded"


def vllm_command(recording: str) -> list[str]:
    """Return the command of a real vLLM, or the one that replays a recording.

    Args:
        recording: name of the recording, which the tests of a module share.
    """
    if not COMMAND:
        return [sys.executable, str(REPLAY), "replay", str(RECORDED / f"{recording}.jsonl.gz")]
    if RECORD:
        return [sys.executable, str(REPLAY), "record", str(Path(RECORD).resolve() / f"{recording}.jsonl"), *COMMAND]
    return COMMAND
