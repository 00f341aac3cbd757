"""Kills come before, in the middle of and after the intended write; a full disk is full for every library."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from faults import no_space
from faults.acts import in_a_child
from faults.full_disks import NO_NEW_FILES, NOTHING_FITS, filler
from faults.kills import Moment, killer
from spin_trl.files import write_atomically


def write_three(folder: Path) -> int:
    """Write three files of 1,000 bytes, of three kinds."""
    os.chdir(folder)
    for name in ("best.json", "recipe.yaml", "table.txt"):
        write_atomically(Path("run", name), lambda file: file.write(b"x" * 1_000))
    return 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a trial's folder with an empty run directory."""
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("moment", "there"),
    [
        (Moment("recipe", 1), {"best.json": 1_000}),
        (Moment("recipe", 1, middle_at=400), {"best.json": 1_000, ".recipe.yaml": 400}),
        (Moment("recipe", 2), {"best.json": 1_000, ".recipe.yaml": 1_000}),
        (Moment("recipe", 2, after=True), {"best.json": 1_000, "recipe.yaml": 1_000}),
        (Moment(None, 3), {"best.json": 1_000}),
    ],
)
def test_a_kill_comes_when_it_is_meant_to(moment: Moment, there: dict[str, int], folder: Path) -> None:
    def play() -> int:
        killer(folder, signal.SIGKILL, moment)()
        return write_three(folder)

    ended = in_a_child(play)
    assert ended.code == -(signal.SIGXFSZ if moment.middle_at else signal.SIGKILL)
    found = {path.name.partition(f".{ended.process}.")[0]: path.stat().st_size for path in (folder / "run").iterdir()}
    assert found == there


@pytest.mark.skipif(not no_space.is_possible(), reason="the numbers of this machine's system calls are not known here")
@pytest.mark.parametrize("library", ["python", "safetensors", "torch"])
def test_nothing_fits_on_a_full_disk(library: str, tmp_path: Path) -> None:
    write = {
        "python": lambda path: path.write_bytes(bytes(100)),
        "safetensors": lambda path: save_file({"one": torch.zeros(100)}, path),
        "torch": lambda path: torch.save({"one": torch.zeros(100)}, path),
    }[library]

    def play() -> int:
        write(tmp_path / "before")
        no_space.fill()
        try:
            write(tmp_path / "after")
        except Exception as error:
            print(error)
        return 0

    ended = in_a_child(play)
    assert "No space left on device" in ended.output or "iostream error" in ended.output  # torch's own message
    assert (tmp_path / "before").stat().st_size >= 100
    assert not (tmp_path / "after").exists() or (tmp_path / "after").stat().st_size == 0


@pytest.mark.skipif(not no_space.is_possible(), reason="the numbers of this machine's system calls are not known here")
def test_what_is_small_fits_on_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    def play() -> int:
        no_space.fill(100)
        (tmp_path / "small").write_bytes(bytes(99))
        (tmp_path / "large").write_bytes(bytes(100))
        return 0

    assert "No space left on device" in in_a_child(play).output
    assert (tmp_path / "small").stat().st_size == 99


@pytest.mark.parametrize("way", [NOTHING_FITS, NO_NEW_FILES] if no_space.is_possible() else [NO_NEW_FILES])
def test_a_disk_is_full_from_a_write_on(way: str, folder: Path) -> None:
    """Earlier values are restored."""

    def play() -> int:
        filler(folder, way, "recipe", 1)()
        return write_three(folder)

    ended = in_a_child(play)
    assert "No space left on device" in ended.output
    assert os.listdir(folder / "run") == ["best.json"]
