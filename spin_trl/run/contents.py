"""The contents of a run directory: the one list of files that a run writes, by their paths inside it.

A backup contains the files on the list and no others. Files that are not on it belong to the user.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ..files import parse_json
from . import checkpoint
from .checkpoint import CHECKPOINT_MANIFEST

JUDGE_FILE = "judge.jsonl"
"""File of the judge's replies."""

FILES = ("recipe.yaml", "journal.jsonl", "best.json", "table.txt", "plot.png", "report.html", JUDGE_FILE)
"""Files at the top level of a run directory: the run's state, and the files that present its results."""

TRACEBACK = "traceback.txt"
"""File for the tracebacks of unexpected errors."""

PAUSED = ".paused.json"
"""File that says what a run waits for."""

TRANSIENT = (".progress.json", PAUSED, ".restoring.tmp", "accelerate-replicas.yaml", "output.txt", TRACEBACK)
"""Top-level entries that belong to a session rather than to the run; they are not backed up."""

FOLDERS = ("data", "base", "start", "baseline", "dpo", "tensorboard", "trackers", "hub", "pairs")
"""Top-level folders, in addition to those of the iterations."""

LINK = "best"
"""The link to the best model."""

ITERATION = re.compile(r"iteration-(\d+)")

_STAGE = r"(?:(?:dpo/)?(?:base|start|iteration-\d+)|baseline/[^/]+/iteration-\d+)"
_STORE = r"(?:generations\.json|checksums\.jsonl|shard-\d+\.parquet)"
_MODEL = (
    r"(?:[^/]+\.safetensors(?:\.index\.json)?|config\.json|generation_config\.json|adapter_config\.json|README\.md"
    r"|chat_template\.(?:jinja|json)|additional_chat_templates/[^/]+\.jinja|tokenizer[^/]*|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt|[^/]+\.(?:bpe|codes|model|spm|tiktoken|vocab)"
    r"|(?:pre|video_pre)?processor_config\.json|\w+\.py)"
)

_KEPT_PATHS = re.compile(
    rf"(?:{'|'.join(map(re.escape, FILES))}"
    r"|data/(?:train|held-out|test|retention|dpo)/(?:(?!cache-)[^/]+\.arrow|dataset_info\.json|state\.json)"
    rf"|{_STAGE}/(?:metrics\.json|histograms\.json|samples\.jsonl|review\.html|review\.json)"
    rf"|{_STAGE}/generations/{_STORE}"
    rf"|{_STAGE}/ahead/(?:seconds\.txt|generations/{_STORE})"
    rf"|{_STAGE}/held-out/(?:logps\.json|values\.json|(?:sampled|greedy)/{_STORE})"
    rf"|{_STAGE}/(?:test|retention)/(?:metrics\.json|samples\.jsonl|logps\.json|values\.json|(?:sampled|greedy)/{_STORE})"
    rf"|{_STAGE}/model/{_MODEL}"
    rf"|start/tokenizer/{_MODEL}"
    rf"|(?:base|start)/base/{_MODEL}"
    r"|start/logps/(?:real|iteration-\d+)-[0-9a-f]{16}\.json"
    rf"|{_STAGE}/lm-eval/.+\.json"
    rf"|pairs/[^/]+/(?:\.pairs\.json|README\.md|train-\d+\.parquet|\.samples/{_STORE})"
    r"|tensorboard/(?:.+/)?events\.out\.tfevents\.[^/]+"
    r"|hub/dataset/README\.md)"
)

_CHECKPOINT = re.compile(rf"(?P<folder>{_STAGE}/train/checkpoint-\d+)/(?P<file>.+)")

_ALSO_WRITTEN = re.compile(
    rf"(?:{'|'.join(map(re.escape, TRANSIENT))}"
    r"|data/(?:train|held-out|test|retention|dpo)/cache-[^/]+\.arrow(?:\.checksum)?"
    rf"|{_STAGE}/model/training_args\.bin"
    rf"|{_STAGE}/train/(?:README\.md|(?:runs|logs|pairs|checkpoint-\d+)/.+)"
    r"|trackers/.+"
    r"|(?:.+/)?\.[^/]+\.tmp(?:/.+)?)"
)
"""Other files that version 0.1.0 writes; they are not backed up."""


def is_top_entry(name: str) -> bool:
    """Return whether a run writes an entry with this name at the top level of its directory."""
    return name in (*FILES, *TRANSIENT, *FOLDERS, LINK) or ITERATION.fullmatch(name) is not None


def is_kept_of_run(name: str, file: Path) -> bool:
    """Return whether a file is part of a run, and so is backed up.

    A file of a training checkpoint is part of the run if the manifest names it and training is resumed from it.

    Args:
        name: usual path of the file in a run directory, with `/`.
        file: actual path of the file.
    """
    if _KEPT_PATHS.fullmatch(name):
        return True
    found = _CHECKPOINT.fullmatch(name)
    if found is None:
        return False
    inside = PurePosixPath(found["file"])
    folder = file.parents[len(inside.parts) - 1]
    return found["file"] == CHECKPOINT_MANIFEST or (
        found["file"] in _named_by_manifest(folder) and checkpoint.is_kept_of_checkpoint(inside)
    )


def is_written(name: str) -> bool:
    """Return whether a run writes a file with this path: its kept files, and caches, checkpoints and unfinished files."""
    return _KEPT_PATHS.fullmatch(name) is not None or _ALSO_WRITTEN.fullmatch(name) is not None


def foreign_files(root: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield the paths, inside the run directory, of files in its folders that no run writes. Links are not followed.

    Args:
        root: run directory.
        names: names of folders in it; names of other entries are skipped.
    """
    for name in names:
        folder = root / name
        for path in files_in(folder) if not folder.is_symlink() else ():
            found = path.relative_to(root)
            if not is_written(found.as_posix()):
                yield str(found)


def files_in(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder, in order. Links in it are not followed."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        paths = (Path(place, file) for file in sorted(files))
        yield from (path for path in paths if not path.is_symlink())


def _named_by_manifest(folder: Path) -> set[str]:
    """Return the files that a checkpoint's manifest names, except paths out of the checkpoint; empty without a manifest."""
    try:
        names = parse_json((folder / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name for name in names if ".." not in PurePosixPath(name).parts}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
