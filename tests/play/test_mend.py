"""A run whose files were damaged recreates them with the same bytes, or reports that it can't."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import tiny
from messages import logged, refused
from runs import build, journal, steps, without_checksums
from spin_trl.errors import RunDirectoryError
from spin_trl.files import Checksum

PLAYED = {"baseline": "sft", "evaluate_greedy": True}

MADE = (
    "data/train/data-00000-of-00001.arrow",
    "data/held-out/data-00000-of-00001.arrow",
    "iteration-0/generations/shard-00000.parquet",
    "iteration-0/generations/generations.json",
    "iteration-0/generations/checksums.jsonl",
    "iteration-0/model/model.safetensors",
    "iteration-0/model/config.json",
    "iteration-0/model/tokenizer.json",
    "iteration-0/metrics.json",
    "iteration-0/samples.jsonl",
    "iteration-0/histograms.json",
    "iteration-0/held-out/values.json",
    "iteration-0/held-out/logps.json",
    "iteration-0/held-out/sampled/shard-00000.parquet",
    "iteration-1/generations/shard-00000.parquet",
    "iteration-1/model/model.safetensors",
    "iteration-1/metrics.json",
    "start/held-out/logps.json",
    "start/metrics.json",
    "baseline/sft/iteration-0/model/model.safetensors",
    "baseline/sft/iteration-1/metrics.json",
)
"""One file of every kind that a step writes."""


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def deleted(path: Path) -> None:
    path.unlink()


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


def zeros(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def of_another_shape(path: Path) -> None:
    path.write_text('{"a": 1}', encoding="utf-8")


@pytest.fixture(scope="module")
def played(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of two iterations with a baseline."""
    folder = tmp_path_factory.mktemp("played") / "run"
    build(llama_folder, folder, **PLAYED).run()
    return folder


def bytes_of(run: Path) -> dict[str, Checksum]:
    """Return all files that steps have written: weights, generations, rows, figures."""
    kinds = {".safetensors", ".parquet", ".arrow", ".json", ".jsonl"}
    skipped = {"journal.jsonl", ".spin_trl.json", "state.json", "best.json", "adapter_config.json", "checksums.jsonl"}
    return {
        path.relative_to(run).as_posix(): Checksum.of(path)
        for path in sorted(run.rglob("*"))
        if path.suffix in kinds and path.name not in skipped and "cache-" not in path.name and not path.is_symlink()
    }


def damaged(played: Path, name: str, damage: Callable[[Path], None]) -> None:
    """Return a copy of the finished run, as `run` in the current folder, with one damaged file."""
    shutil.copytree(played, "run", symlinks=True)
    damage(Path("run", name))


ONE_OF_EACH = {"data/train", "iteration-0/generations", "iteration-0/model", "iteration-0", "iteration-0/held-out"}
"""Folders of which one file is lost in every test run; the others, and single bits, take longer."""


def every_kind() -> Iterator[ParameterSet]:
    """Yield every file, lost or with one bit changed."""
    quick = {folder: next(name for name in MADE if str(Path(name).parent) == folder) for folder in ONE_OF_EACH}
    for name in MADE:
        for damage in (deleted, one_bit):
            marks = [] if damage is deleted and name in quick.values() else [pytest.mark.slow]
            yield pytest.param(name, damage, id=f"{damage.__name__}-{name}", marks=marks)


@pytest.mark.parametrize(("name", "damage"), every_kind())
def test_what_is_damaged_is_made_again(
    played: Path, llama_folder: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The bytes are the same, and there is a warning. No other step is run again."""
    damaged(played, name, damage)
    before = steps()
    build(llama_folder, **PLAYED).run()
    assert bytes_of(Path("run")) == bytes_of(played)
    news = steps()[len(before) :]
    assert next(phase for phase, _ in news) == "lost"
    assert len({stage for _, stage in news}) == 1
    logged(caplog, Path(name).name)
    before = steps()
    build(llama_folder, **PLAYED).run()
    assert steps() == before, "the run is complete again"


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, emptied, zeros, of_another_shape], ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", ["iteration-0/model/model.safetensors", "iteration-1/metrics.json", MADE[0], MADE[2]])
def test_every_kind_of_damage_is_found(
    played: Path, llama_folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """It is found even if the length is right, or the file can be read."""
    damaged(played, name, damage)
    build(llama_folder, **PLAYED).run()
    assert bytes_of(Path("run")) == bytes_of(played)


def test_a_model_on_which_others_stand_must_come_out_the_same(played: Path, llama_folder: Path) -> None:
    """If training comes out different (here: according to the journal), later models do not start from it."""
    damaged(played, "iteration-0/model/model.safetensors", deleted)
    path, lines = Path("run/journal.jsonl"), journal()
    for line in lines:
        if (line["phase"], line["stage"]) == ("train", "iteration-0"):
            line["files"]["iteration-0/model/model.safetensors"][1] = "0" * 64
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with refused(RunDirectoryError, "iteration-0", Path("run/iteration-0/model")):
        build(llama_folder, **PLAYED).run()
    assert ("train", "iteration-0") not in steps()[len(lines) :]


def test_what_was_given_up_is_not_missed(llama_folder: Path) -> None:
    """`keep_iterations` deletes models; they are not trained again when the run is resumed."""
    build(llama_folder, num_iterations=3, keep_iterations=1, **PLAYED).run()
    assert not Path("run/iteration-0/model").exists() or not Path("run/iteration-1/model").exists()
    before = steps()
    build(llama_folder, num_iterations=3, keep_iterations=1, **PLAYED).run()
    assert steps() == before


def test_what_a_model_that_is_gone_has_made_is_refused(llama_folder: Path) -> None:
    """The message names the file, and the model that would be needed."""
    settings = {"num_iterations": 2, "keep_iterations": None}
    build(llama_folder, **settings).run()
    shutil.rmtree("run/iteration-0/model")
    Path("run/iteration-1/generations/shard-00000.parquet").unlink()
    Path("run/iteration-1/model/model.safetensors").unlink()
    with refused(RunDirectoryError, "shard-00000.parquet", "iteration-0"):
        build(llama_folder, **settings).run()


def test_another_runs_journal_is_refused(played: Path, llama_folder: Path, tmp_path: Path) -> None:
    """No file matches it, and no file is removed because of that."""
    shutil.copytree(played, "run", symlinks=True)
    build(llama_folder, tmp_path / "other", train_dataset=tiny.sft(40).select(range(20, 40)), **PLAYED).run()
    shutil.copyfile(tmp_path / "other" / "journal.jsonl", "run/journal.jsonl")
    with refused(RunDirectoryError, Path("run"), "journal.jsonl"):
        build(llama_folder, **PLAYED).run()
    assert bytes_of(Path("run")) == bytes_of(played)


def test_another_runs_journal_is_refused_by_a_run_that_has_come_less_far(
    played: Path, llama_folder: Path, tmp_path: Path
) -> None:
    """Missing files that its journal records do not make the other files this run's."""
    shutil.copytree(played, "run", symlinks=True)
    for name in ("iteration-1", "baseline"):
        shutil.rmtree(Path("run", name))
    before = bytes_of(Path("run"))
    lines = Path("run/journal.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        entry.pop("crc32")
        for name, (size, _) in entry.get("files", {}).items():
            entry["files"][name] = [size, "0" * 64]
    Path("run/journal.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    with refused(RunDirectoryError, Path("run"), "journal.jsonl"):
        build(llama_folder, **PLAYED).run()
    assert bytes_of(Path("run")) == before


def test_what_depends_on_a_damaged_model_is_made_again_with_it(played: Path, llama_folder: Path) -> None:
    """Neither is refused because of the other."""
    damaged(played, "iteration-0/model/model.safetensors", deleted)
    one_bit(Path("run/iteration-0/held-out/values.json"))
    build(llama_folder, **PLAYED).run()
    assert bytes_of(Path("run")) == bytes_of(played)


def test_a_run_without_checksums_goes_on_and_says_so(
    played: Path, llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Version 0.1.0 stored none."""
    shutil.copytree(played, "run", symlinks=True)
    without_checksums()
    before = steps()
    build(llama_folder, **PLAYED).run()
    logged(caplog, Path("run"))
    assert steps() == before


def test_a_half_finished_run_mends_what_it_has(played: Path, llama_folder: Path) -> None:
    """It was interrupted halfway, after earlier damage, and reaches the same result."""
    shutil.copytree(played, "run", symlinks=True)
    lines = Path("run/journal.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = next(number for number, line in enumerate(lines) if '"generate", "stage": "iteration-1"' in line)
    Path("run/journal.jsonl").write_text("".join(lines[: kept + 1]), encoding="utf-8")
    for name in ("iteration-1/model", "iteration-1/held-out", "baseline/sft/iteration-1"):
        shutil.rmtree(Path("run", name))
    one_bit(Path("run/iteration-1/generations/shard-00000.parquet"))
    cut(Path("run/start/held-out/values.json"))
    build(llama_folder, **PLAYED).run()
    assert bytes_of(Path("run")) == bytes_of(played)


def test_answers_that_were_not_finished_and_can_not_be_read_are_made_again(
    played: Path, llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are not in the journal yet."""
    shutil.copytree(played, "run", symlinks=True)
    lines = Path("run/journal.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if '"generate", "stage": "iteration-1"' in line)
    Path("run/journal.jsonl").write_text("".join(lines[:first]), encoding="utf-8")
    for name in ("iteration-1/model", "iteration-1/held-out", "baseline/sft/iteration-1"):
        shutil.rmtree(Path("run", name))
    zeros(Path("run/iteration-1/generations/generations.json"))
    build(llama_folder, **PLAYED).run()
    logged(caplog, Path("run/iteration-1/generations"))
    assert bytes_of(Path("run")) == bytes_of(played)


def test_rows_that_were_lost_are_prepared_of_the_same_data_only(played: Path, llama_folder: Path) -> None:
    """Otherwise the run would resume with other rows than those that were answered."""
    damaged(played, MADE[0], deleted)
    with refused(ValueError, "dataset"):
        build(llama_folder, train_dataset=tiny.sft(16), **PLAYED).run()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', '{"stage": 3}', "\0\0"])
def test_which_stage_is_the_best_is_written_again(
    played: Path, llama_folder: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It follows from the figures."""
    shutil.copytree(played, "run", symlinks=True)
    Path("run/best.json").write_text(content, encoding="utf-8")
    build(llama_folder, **PLAYED).run()
    best = [json.loads((run / "best.json").read_text(encoding="utf-8"))["stage"] for run in (Path("run"), played)]
    assert best[0] == best[1]
    logged(caplog, "best.json")


def test_generations_that_somebody_has_deleted_as_a_whole_are_not_made_again(played: Path, llama_folder: Path) -> None:
    """They were already trained on, and generating them again may take hours."""
    shutil.copytree(played, "run", symlinks=True)
    shutil.rmtree("run/iteration-0/generations")
    before = steps()
    build(llama_folder, **PLAYED).run()
    assert steps() == before
