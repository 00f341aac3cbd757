"""Valid training checkpoints: those whose manifest was written after all other files, and whose files still match it.

Trainer's own resume uses the newest folder, and crashes if the machine died while it was being written. Only the files of a
checkpoint that training is resumed from are checked and backed up to the Hub. transformers and accelerate load them with
`weights_only=True`, so that none of them can run code.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any
from unittest import mock

from ..files import ADAPTER_CONFIG, Checksum, checksums_in, parse_json, write_json
from .checked import CheckedFiles, wrong_with

logger = logging.getLogger(__name__)

CHECKPOINT_MANIFEST = "checkpoint.json"

_OF_A_MODEL = re.compile(
    r".+\.(safetensors|json|md|py|"  # weights, configuration, card, custom code
    r"jinja|bpe|codes|model|spm|tiktoken|txt|vocab)"  # tokenizer with its vocabulary
)
"""Names of a model's files."""

_STATES = re.compile(
    r"(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth|"  # Trainer, on one process and on several
    r"optimizer\.bin|pytorch_model_fsdp\.bin|pytorch_model_fsdp_rank\d+\.bin|"  # FSDP, full and local state dicts
    r"latest"  # DeepSpeed: names the folder to load
)
_FOLDERS_OF_STATES = re.compile(r"(optimizer|pytorch_model_fsdp)_\d+|global_step\d+")
"""Folders that FSDP (sharded) and DeepSpeed write."""


def is_of_a_model(path: PurePath) -> bool:
    """Return whether a file name is one of a model's files; pickles (`.bin`, `.pt`, `.pth`, `.pkl`) are not."""
    return _OF_A_MODEL.fullmatch(path.name) is not None


def kept_files_of_checkpoint(checkpoint: Path) -> Iterator[Path]:
    """Yield the files that training is resumed from: those of the model or its adapters, and the training state."""
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.is_symlink() and is_kept_of_checkpoint(path.relative_to(checkpoint)):
            yield path


def is_kept_of_checkpoint(inside: PurePath) -> bool:
    """Return whether training is resumed from a file, given its path inside the checkpoint."""
    in_states = len(inside.parts) > 1 and _FOLDERS_OF_STATES.fullmatch(inside.parts[0]) is not None
    return in_states or _STATES.fullmatch(inside.name) is not None or is_of_a_model(inside)


@contextlib.contextmanager
def without_arguments(args: Any) -> Iterator[None]:
    """Keep Trainer from saving its arguments.

    It pickles them next to every model and never reads them. They contain paths of this machine, and a token if one was
    given; and loading a pickle runs its code.

    Args:
        args: arguments of the trainer.
    """
    # Imported here because the report needs this module, but not torch, which takes seconds to import.
    import torch

    save = torch.save

    def save_others(found: Any, *places: Any, **settings: Any) -> None:
        if found is not args:
            save(found, *places, **settings)

    with mock.patch.object(torch, "save", save_others):
        yield


def write_manifest(folder: Path, num_processes: int, taken: Mapping[Path, Checksum] | None = None) -> None:
    """Declare a checkpoint complete: record its files, their sizes and SHA-256, and how many processes wrote it.

    Args:
        folder: folder of the checkpoint.
        num_processes: number of processes that wrote it.
        taken: checksums computed while files were written; all other files are read.
    """
    kept = {path.relative_to(folder).as_posix(): path for path in kept_files_of_checkpoint(folder)}
    kept.pop(CHECKPOINT_MANIFEST, None)
    checksums = checksums_in(folder, taken or {}, kept)
    write_json(
        folder / CHECKPOINT_MANIFEST,
        {
            "num_processes": num_processes,
            # Version 0.1.0 reads only the sizes.
            "files": {name: path.stat().st_size for name, path in kept.items()},
            "sha256": {name: checksum.sha256 for name, checksum in checksums.items()},
        },
    )


def latest(folder: Path, num_processes: int) -> Path | None:
    """Return the newest intact checkpoint in a folder that this number of processes can resume, or None.

    Trainer keeps a random state per process and skips batches per process, so with a different number of processes training
    starts from the beginning. Files are read to verify their checksums, unless this machine has read them before.
    """
    passed_over = False
    for path in _newest_first(folder):
        manifest = _complete(path)
        what = "is incomplete" if manifest is None else _damage(path, manifest)
        if manifest is None or what is not None:
            passed_over = True
            logger.warning("%s %s and is skipped.", path, what)
        elif manifest["num_processes"] != num_processes:
            logger.warning(
                "%s was written by %d processes and can't be resumed with %d: training of the iteration starts over.",
                path,
                manifest["num_processes"],
                num_processes,
            )
            return None
        else:
            return path
    if passed_over:
        logger.warning("%s has no intact checkpoint: training of the iteration starts over.", folder)
    return None


def newest_complete(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, regardless of how many processes wrote it, or None."""
    return next((path for path in _newest_first(folder) if _complete(path) is not None), None)


def is_intact(checkpoint: Path) -> bool:
    """Return whether a checkpoint is complete and its files are as they were written."""
    manifest = _complete(checkpoint)
    return manifest is not None and _damage(checkpoint, manifest) is None


def _newest_first(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, intact or not, newest step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _complete(checkpoint: Path) -> dict[str, Any] | None:
    """Return the manifest of a checkpoint if all of its files exist with the recorded sizes, else None."""
    try:
        manifest = parse_json((checkpoint / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
        # Version 0.1.0 listed every file. Those not needed to resume, like Trainer's arguments, may be gone.
        sizes = {name: size for name, size in manifest["files"].items() if is_kept_of_checkpoint(PurePath(name))}
        # An adapter's configuration names its base, which may have been moved since.
        intact = all(
            (checkpoint / name).stat().st_size == size or PurePath(name).name == ADAPTER_CONFIG
            for name, size in sizes.items()
        )
        intact &= all(isinstance(sha256, str) for sha256 in manifest.get("sha256", {}).values())
        return manifest if intact and isinstance(manifest["num_processes"], int) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _damage(checkpoint: Path, manifest: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the contents of a checkpoint's files, or None. Version 0.1.0 recorded only their sizes."""
    sizes, checked = manifest["files"], CheckedFiles()
    for name, sha256 in manifest.get("sha256", {}).items():
        what = wrong_with(checkpoint / name, Checksum(sizes.get(name, 0), sha256), checked)
        if what is not None:
            return f"is damaged ({name} {what})"
    return None
