"""Training checkpoints that count: those whose manifest was written after everything else.

Trainer's own resume takes the newest folder, and crashes if the machine died while it was being written.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from .files import write_json

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"


def write_manifest(folder: Path, num_processes: int) -> None:
    """Declare a checkpoint complete: its files and their sizes, and how many processes wrote it."""
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, {"num_processes": num_processes, "files": files})


def latest(folder: Path, num_processes: int) -> Path | None:
    """The newest complete checkpoint in a folder that this number of processes can resume, or None.

    Trainer keeps a random state per process and skips batches by process, so another number starts from the beginning.
    """
    found = [
        (int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := re.search(r"-(\d+)$", path.name))
    ]
    for _, path in sorted(found, reverse=True):
        manifest = _complete(path)
        if manifest is None:
            logger.warning("%s was not written to its end and is passed over.", path)
        elif manifest["num_processes"] != num_processes:
            logger.warning(
                "%s was written by %d processes; with %d, the iteration's training starts from its beginning.",
                path,
                manifest["num_processes"],
                num_processes,
            )
            return None
        else:
            return path
    return None


def newest_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder, whoever can resume it, or None."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in found if _complete(path) is not None), None)


def _complete(checkpoint: Path) -> dict | None:
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        intact = all((checkpoint / name).stat().st_size == size for name, size in manifest["files"].items())
        return manifest if intact and isinstance(manifest["num_processes"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
