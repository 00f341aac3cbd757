"""Training checkpoints that count: those whose manifest was written after everything else, and whose files still are what
it says.

Trainer's own resume takes the newest folder, and crashes if the machine died while it was being written. Of a checkpoint's
files those count, and are kept on the Hub, that training is resumed from. transformers and accelerate load them with
`weights_only=True`, so that none can run code.
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
    r".+\.(safetensors|json|md|py|"  # weights, configuration, card, code of its own
    r"jinja|bpe|codes|model|spm|tiktoken|txt|vocab)"  # its tokenizer with the vocabulary
)
"""A model's files."""

_STATES = re.compile(
    r"(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth|"  # Trainer, on one process and on several
    r"optimizer\.bin|pytorch_model_fsdp\.bin|pytorch_model_fsdp_rank\d+\.bin|"  # FSDP, whole and local
    r"latest"  # DeepSpeed: which of its folders
)
_FOLDERS_OF_STATES = re.compile(r"(optimizer|pytorch_model_fsdp)_\d+|global_step\d+")
"""What FSDP (sharded) and DeepSpeed write as folders."""


def is_of_a_model(path: PurePath) -> bool:
    """Whether a file's name is one that a model's folder holds: no pickle (`.bin`, `.pt`, `.pth`, `.pkl`) is."""
    return _OF_A_MODEL.fullmatch(path.name) is not None


def kept_files_of_checkpoint(checkpoint: Path) -> Iterator[Path]:
    """Yield the files that a checkpoint is resumed from: the model's, or several adapters', and the states of training."""
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.is_symlink() and is_kept_of_checkpoint(path.relative_to(checkpoint)):
            yield path


def is_kept_of_checkpoint(inside: PurePath) -> bool:
    """Whether a checkpoint's file is one that it is resumed from, by its path inside."""
    in_states = len(inside.parts) > 1 and _FOLDERS_OF_STATES.fullmatch(inside.parts[0]) is not None
    return in_states or _STATES.fullmatch(inside.name) is not None or is_of_a_model(inside)


@contextlib.contextmanager
def without_arguments(args: Any) -> Iterator[None]:
    """Let Trainer save all but its arguments.

    It pickles them beside every model and never reads them. They hold this machine's paths, and a token if one was given;
    and whoever loads a pickle runs its code.

    Args:
        args: the trainer's.
    """
    # Imported here: a report needs this module, and neither torch nor the seconds that its import takes.
    import torch

    save = torch.save

    def save_others(found: Any, *places: Any, **settings: Any) -> None:
        if found is not args:
            save(found, *places, **settings)

    with mock.patch.object(torch, "save", save_others):
        yield


def write_manifest(folder: Path, num_processes: int, taken: Mapping[Path, Checksum] | None = None) -> None:
    """Declare a checkpoint complete: its files, their sizes and SHA-256, and how many processes wrote it.

    Args:
        folder: of the checkpoint.
        num_processes: that have written it.
        taken: checksums of files that were taken while they were written; the other files are read.
    """
    kept = {path.relative_to(folder).as_posix(): path for path in kept_files_of_checkpoint(folder)}
    kept.pop(CHECKPOINT_MANIFEST, None)
    checksums = checksums_in(folder, taken or {}, kept)
    write_json(
        folder / CHECKPOINT_MANIFEST,
        {
            "num_processes": num_processes,
            # Version 0.1.0 reads sizes alone.
            "files": {name: path.stat().st_size for name, path in kept.items()},
            "sha256": {name: checksum.sha256 for name, checksum in checksums.items()},
        },
    )


def latest(folder: Path, num_processes: int) -> Path | None:
    """The newest checkpoint in a folder that is whole, and that this number of processes can resume, or None.

    Trainer keeps a random state per process and skips batches by process, so another number starts from the beginning.
    Files are read for their checksums, unless this machine has read them before.
    """
    passed_over = False
    for path in _newest_first(folder):
        manifest = _complete(path)
        what = "was not written to its end" if manifest is None else _damage(path, manifest)
        if manifest is None or what is not None:
            passed_over = True
            logger.warning("%s %s, and is passed over.", path, what)
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
    if passed_over:
        logger.warning(
            "%s has no checkpoint that is whole: the iteration's training starts from its beginning.", folder
        )
    return None


def newest_complete(folder: Path) -> Path | None:
    """The newest checkpoint in a folder that was written to its end, whoever can resume it, or None."""
    return next((path for path in _newest_first(folder) if _complete(path) is not None), None)


def _newest_first(folder: Path) -> list[Path]:
    """Checkpoints in a folder, whole or not, by their steps."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _complete(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint whose files are all there and as long as it says, or None."""
    try:
        manifest = parse_json((checkpoint / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
        # Version 0.1.0 listed every file. Those that nothing is resumed from, like Trainer's arguments, may be gone.
        sizes = {name: size for name, size in manifest["files"].items() if is_kept_of_checkpoint(PurePath(name))}
        # An adapter's configuration names its base, which may lie elsewhere since.
        intact = all(
            (checkpoint / name).stat().st_size == size or PurePath(name).name == ADAPTER_CONFIG
            for name, size in sizes.items()
        )
        intact &= all(isinstance(sha256, str) for sha256 in manifest.get("sha256", {}).values())
        return manifest if intact and isinstance(manifest["num_processes"], int) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _damage(checkpoint: Path, manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with the content of a checkpoint's files, or None. Version 0.1.0 has recorded their sizes alone."""
    sizes, checked = manifest["files"], CheckedFiles()
    for name, sha256 in manifest.get("sha256", {}).items():
        what = wrong_with(checkpoint / name, Checksum(sizes.get(name, 0), sha256), checked)
        if what is not None:
            return f"is damaged ({name} {what})"
    return None
