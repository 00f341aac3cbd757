"""`engine: auto` chooses vLLM on a GPU where it answers and can generate for the run, and says why it does not elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from messages import names
from spin_trl.generation.vllm.choice import EngineChoice, answered_version, choose_engine
from spin_trl.generation.vllm.to_serve import ToServe


@pytest.mark.parametrize(
    ("given", "engine", "parts", "asks"),
    [
        ({}, "vllm", ["0.31.0", "`/envs/vllm --version`"], True),
        ({"on_gpu": False}, "transformers", ["CPU"], False),
        ({"is_quantised": True}, "transformers", ["quantised"], False),
        ({"tensor_parallel": 2}, "transformers", ["`tensor_parallel`", 2, 1], False),
        (
            {"adapters": [LoraConfig(alora_invocation_tokens=[3])]},
            "transformers",
            ["`alora_invocation_tokens`"],
            False,
        ),
        ({"adapter_folder": Path("/no/such/adapter")}, "transformers", ["/no/such/adapter"], False),
    ],
)
def test_the_first_thing_against_vllm_is_the_reason(
    given: dict[str, Any], engine: str, parts: list[object], asks: bool
) -> None:
    """vLLM takes long to report its version, so it is asked only if nothing else is against it."""
    asked: list[tuple[str, ...]] = []

    def version(command: tuple[str, ...]) -> str:
        asked.append(command)
        return "0.31.0"

    choice = choose_engine(ToServe(None, **given), ["/envs/vllm"], version)
    assert choice.engine == engine
    assert names(str(choice), "`engine: auto`", engine, *parts)
    assert asked == [("/envs/vllm",)] * asks


def test_without_an_answer_it_is_transformers() -> None:
    choice = choose_engine(ToServe(None), ["vllm", "-x"], lambda command: None)
    assert choice == EngineChoice("transformers", choice.reason)
    assert names(choice.reason, "`vllm -x --version`", "`vllm_command`")


def test_a_command_is_asked_once(tmp_path: Path) -> None:
    script = tmp_path / "vllm.py"
    script.write_text(
        "import sys\nopen(sys.argv[1], 'a', encoding='utf-8').write('asked ')\nprint('0.31.0')\n", encoding="utf-8"
    )
    command = (sys.executable, str(script), str(tmp_path / "log"))
    assert answered_version(command) == answered_version(command) == "0.31.0"
    assert (tmp_path / "log").read_text(encoding="utf-8") == "asked "


@pytest.mark.parametrize("command", [(), ("no-such-vllm",), (sys.executable, "-c", "raise SystemExit(3)")])
def test_what_can_not_be_started_or_fails_does_not_answer(command: tuple[str, ...]) -> None:
    assert answered_version(command) is None
