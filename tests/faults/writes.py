"""The files that a run writes, sorted by kind; and a hook that sees each of its file operations before it happens."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RUN_DIR: Final = "run"
CACHE: Final = "cache"
"""Folders of a trial: the run directory, and the cache of `datasets`."""

_STAGE = rf"{RUN_DIR}/(?:start|iteration-\d+|baseline/[^/]+/iteration-\d+)"

KINDS: Final[dict[str, str]] = {
    "cached rows": rf"{CACHE}(?:/.*)?",
    "lock": rf"{RUN_DIR}/\.(?:phase\.)?lock",
    "marker": rf"{RUN_DIR}/\.spin_trl\.json",
    "recipe": rf"{RUN_DIR}/recipe\.yaml",
    "journal": rf"{RUN_DIR}/journal\.jsonl",
    "prepared rows": rf"{RUN_DIR}/data(?:/.*)?",
    "tokenizer of the start": rf"{RUN_DIR}/start/tokenizer(?:/.*)?",
    "card": rf"{_STAGE}/model/README\.md|{RUN_DIR}/hub/.*",
    "weights": rf"{_STAGE}/model/[^/]+\.safetensors",
    "model": rf"{_STAGE}/model(?:/.*)?",
    "checkpoint's manifest": rf"{_STAGE}/train/checkpoint-\d+/checkpoint\.json",
    "checkpoint's weights": rf"{_STAGE}/train/checkpoint-\d+/[^/]+\.safetensors",
    "checkpoint": rf"{_STAGE}/train/checkpoint-\d+(?:/.*)?",
    "pairs": rf"{_STAGE}/train/pairs(?:/.*)?",
    "manifest of generations": rf"{_STAGE}/generations/generations\.json",
    "shard of generations": rf"{_STAGE}/generations/shard-\d+\.parquet",
    "manifest of held-out answers": rf"{_STAGE}/held-out/\w+/generations\.json",
    "shard of held-out answers": rf"{_STAGE}/held-out/\w+/shard-\d+\.parquet",
    "log-probabilities": rf"{_STAGE}/held-out/logps\.json",
    "values": rf"{_STAGE}/held-out/values\.json",
    "metrics": rf"{_STAGE}/metrics\.json",
    "histograms": rf"{_STAGE}/histograms\.json",
    "samples": rf"{_STAGE}/samples\.jsonl",
    "best.json": rf"{RUN_DIR}/best\.json",
    "best link": rf"{RUN_DIR}/best",
    "table": rf"{RUN_DIR}/table\.txt",
    "plot": rf"{RUN_DIR}/plot\.png",
    "report": rf"{RUN_DIR}/report\.html",
}
"""Kinds of files that a run writes, by their paths in the folder of a trial. The first match counts."""

_UNFINISHED = re.compile(r"\.(.+?)(?:\.\d+)?\.tmp")
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def kind_of(path: str) -> str | None:
    """Return the kind of a file or folder, by its path in the folder of a trial; None if it has none."""
    # A file that is being written under another name has the kind of its final name.
    parts = [found[1] if (found := _UNFINISHED.fullmatch(part)) else part for part in path.split("/")]
    whole = "/".join(parts)
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, whole)), None)


@dataclass(frozen=True)
class Operation:
    """A file operation of a run.

    Attributes:
        kind: kind of the file that it changes.
        path: path of that file, in the folder of the trial.
        creates: whether it creates something that was not there before, and so needs room on a disk.
        size: bytes of the largest file that it renames into place, if any.
    """

    kind: str
    path: str
    creates: bool
    size: int = 0


def watch(folder: Path, tell: Callable[[Operation], None]) -> None:
    """Call a function before every file operation of this process that changes something in a folder, from now on.

    It sees operations of Python. For libraries that write files themselves, it sees the calls that tell them to.

    Args:
        folder: absolute path, without links.
        tell: called with the operation; if it raises, the operation fails.
    """
    top, busy = f"{folder}/", False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:  # operations of `tell` itself are not the run's
            return
        flags = args[2] if event == "open" else 0
        if event in _CHANGES:
            # For a move or link, the new name counts. `os.symlink` has it second, too.
            path = args[1] if event in ("os.rename", "os.symlink") else args[0]
            in_folder = args[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
        elif event == "open" and isinstance(flags, int) and flags & _WRITES:
            path, in_folder = args[0], -1
        else:
            return
        if isinstance(path, int):
            return
        busy = True
        try:
            full = os.path.abspath(os.path.join(_folder_of(in_folder), os.fsdecode(path)))
            kind = kind_of(full.removeprefix(top)) if full.startswith(top) else None
            if kind is not None:
                creates = event in ("os.mkdir", "os.symlink", "open")
                size = _largest(Path(os.fsdecode(args[0]))) if event == "os.rename" else 0
                tell(Operation(kind, full.removeprefix(top), creates, size))
        finally:
            busy = False

    sys.addaudithook(hook)


def _largest(path: Path) -> int:
    """Return the bytes of a file, or of the largest in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return max((file.stat().st_size for file in files), default=0)


def _folder_of(descriptor: Any) -> str:
    """Return the folder that a path is relative to."""
    return os.readlink(f"/proc/self/fd/{descriptor}") if isinstance(descriptor, int) and descriptor >= 0 else ""
