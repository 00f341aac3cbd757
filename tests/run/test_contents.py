"""The contents of a run directory are listed."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from spin_trl.run.contents import foreign_files, is_kept_of_run, is_top_entry, is_written

ARCHIVES = Path(__file__).parents[1] / "data" / "runs-0.1.0"


@pytest.mark.parametrize("archive", sorted(ARCHIVES.glob("*.tar.gz")), ids=lambda path: path.name)
def test_the_list_has_every_file_of_an_earlier_run(archive: Path) -> None:
    """Otherwise they would be mistaken for the user's files."""
    with tarfile.open(archive) as files:
        names = [one.name.removeprefix("run/") for one in files if one.isfile() and one.name.startswith("run/")]
    assert len(names) > 20
    locks = {".lock", ".phase.lock"}
    assert [name for name in names if not is_written(name) and name not in locks] == []
    assert all(is_top_entry(name.partition("/")[0]) for name in names if name not in locks)


@pytest.mark.parametrize(
    "name",
    [
        "recipe.yaml",
        "data/train/data-00000-of-00001.arrow",
        "start/tokenizer/tokenizer.json",
        "start/logps/real-0123456789abcdef.json",
        "start/ahead/generations/shard-00000.parquet",
        "start/ahead/seconds.txt",
        "start/logps/iteration-12-0123456789abcdef.json",
        "iteration-12/model/model-00001-of-00002.safetensors",
        "iteration-0/model/model.safetensors.index.json",
        "iteration-0/model/modeling_chatglm.py",
        "iteration-0/model/quantization.py",
        "baseline/sft-smoothing-0.1/iteration-0/held-out/values.json",
        "iteration-0/lm-eval/gsm8k-5-shot.json",
        "tensorboard/iteration-0/events.out.tfevents.1.host.2.0",
        "pairs/gsm8k-iteration-1/train-00000.parquet",
        "pairs/gsm8k-iteration-1/README.md",
        "pairs/gsm8k-iteration-1/.pairs.json",
        "pairs/gsm8k-iteration-1/.samples/shard-00003.parquet",
    ],
)
def test_a_backup_holds_what_a_run_consists_of(name: str, tmp_path: Path) -> None:
    assert is_kept_of_run(name, tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "notes.md",
        "data/train.jsonl",
        "data/private/rows.jsonl",
        "iteration-0/notes.md",
        "iteration-0/model/training_args.bin",
        "iteration-0/model/pytorch_model.bin",
        "iteration-0/train/checkpoint-1/key.pem",
        "iteration-old/metrics.json",
        "hub/notes.md",
        "pairs/notes.md",
        "pairs/mine/rows.parquet",
        "start/.env",
        ".spin_trl.json",
    ],
)
def test_a_backup_holds_nothing_else(name: str, tmp_path: Path) -> None:
    assert not is_kept_of_run(name, tmp_path / name)


def test_files_that_no_run_writes_are_found_and_links_are_not_followed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for path in (run / "data/train/state.json", run / "data/mine.jsonl", elsewhere / "theirs.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (run / "data/linked").symlink_to(elsewhere)
    (run / "hub").symlink_to(elsewhere)
    assert list(foreign_files(run, ["data", "hub", "absent"])) == ["data/mine.jsonl"]
