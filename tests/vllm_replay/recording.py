"""Recordings: requests to a vLLM server, what it answered, and the search for the answer to a request.

A recording is a file of JSON lines, packed by gzip. A line is one of:

- `{"vllm": ...}`: the version that answered.
- `{"weights": ..., "sample": [...]}`: weights that were served, and the name by which the other lines call them.
- `{"of": ..., "rank": ..., "method": ..., "path": ..., "asked": ..., "status": ..., "type": ..., "answer": ...}`: a request
  to these weights, to a server that loads adapters up to this rank, and the answer's status, content type and text.
- `{"of": ..., "exit": ..., "log": ...}`: a server of these weights ended by itself, with this code and these last lines.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_replay.weights import MOST_DIFFERENCE, Sample, difference

LOAD = "/v1/load_lora_adapter"
COMPLETE = "/v1/completions"
MODELS = "/v1/models"

Line = dict[str, Any]


class NotRecordedError(LookupError):
    """No answer to this request, or nothing of these weights, was recorded."""


def key_of(method: str, path: str, rank: int | None, body: Any) -> str:
    """Return what a request and a recorded one have in common, apart from the weights.

    Names of models and folders are other ones in every run; the weights say which are meant. Whether an adapter is loaded
    depends on the server's maximum rank.
    """
    kept = (
        {name: value for name, value in body.items() if name not in ("model", "lora_name", "lora_path")}
        if body
        else None
    )
    return json.dumps([method, path, rank if path == LOAD else None, kept], sort_keys=True)


@dataclass
class Recording:
    """What was recorded.

    Attributes:
        version: version of vLLM.
        samples: values of the weights, by their name.
        answers: recorded lines by request and name of weights.
        exits: how servers ended by themselves, by the name of their weights.
    """

    version: str = ""
    samples: dict[str, Sample] = field(default_factory=dict)
    answers: dict[str, dict[str, Line]] = field(default_factory=dict)
    exits: dict[str, Line] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Add a line. The first answer to a request is kept."""
        if "vllm" in line:
            self.version = line["vllm"]
        elif "weights" in line:
            self.samples[line["weights"]] = line["sample"]
        elif "exit" in line:
            self.exits.setdefault(line["of"], line)
        else:
            key = key_of(line["method"], line["path"], line["rank"], line["asked"])
            self.answers.setdefault(key, {}).setdefault(line["of"], line)

    def lines(self) -> Iterable[Line]:
        """Return all lines, those of a request after each other."""
        yield {"vllm": self.version}
        yield from ({"weights": name, "sample": sample} for name, sample in self.samples.items())
        yield from self.exits.values()
        for key in sorted(self.answers):
            yield from self.answers[key].values()

    def answer(self, sample: Sample, key: str) -> Line:
        """Return the answer that the nearest weights gave to a request.

        Raises:
            NotRecordedError: if the request was not recorded, or only to other weights.
        """
        found = self.answers.get(key, {})
        if not found:
            raise NotRecordedError(f"this request was not recorded: {key[:300]}")
        return found[self._nearest(sample, found)]

    def exit_of(self, sample: Sample) -> Line | None:
        """Return how a server of these weights ended by itself; None if it did not."""
        try:
            return self.exits[self._nearest(sample, self.exits)]
        except NotRecordedError:
            return None

    def _nearest(self, sample: Sample, names: Iterable[str]) -> str:
        differences = {name: difference(self.samples[name], sample) for name in names}
        nearest = min(differences, key=differences.__getitem__, default=None)
        if nearest is None or differences[nearest] > MOST_DIFFERENCE:
            raise NotRecordedError(f"these weights are unlike those that were recorded: by {differences}")
        return nearest


def read(path: Path) -> Recording:
    """Return a packed recording."""
    made = Recording()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            made.add(json.loads(line))
    return made


def pack(raw: Path) -> Path:
    """Pack what recorders have written into a file `NAME.jsonl` as `NAME.jsonl.gz`, each line once, and remove the former.

    Recorders name weights on their own, so the same weights may have several names there, and get one here.
    """
    made, names = Recording(), {}
    for text in raw.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "weights" in line:
            known = [name for name, sample in made.samples.items() if sample == line["sample"]]
            names[line["weights"]] = known[0] if known else f"weights-{len(made.samples)}"
            line = {**line, "weights": names[line["weights"]]}
        elif "of" in line:
            line = {**line, "of": names[line["of"]]}
        made.add(line)
    packed = raw.with_name(f"{raw.name}.gz")
    with gzip.GzipFile(packed, "wb", mtime=0) as file:
        for line in made.lines():
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    raw.unlink()
    return packed
