"""Every file operation of a run is reported before it happens, with the kind of the file that it changes."""

import os
import shutil
from pathlib import Path

import pytest

from faults.acts import in_a_child
from faults.writes import KINDS, kind_of, watch
from spin_trl.files import whole_folder, write_atomically


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("cache/spin_trl/0123/rows.arrow", "cached rows"),
        ("run/.lock", "lock"),
        ("run/..spin_trl.json.123.tmp", "marker"),
        ("run/journal.jsonl", "journal"),
        ("run/data/.train.tmp/data-00000-of-00001.arrow", "prepared rows"),
        ("run/iteration-1/.model.tmp", "model"),
        ("run/iteration-1/.model.tmp/model.safetensors", "weights"),
        ("run/baseline/sft/iteration-0/model/README.md", "card"),
        ("run/iteration-0/train/checkpoint-2/optimizer.pt", "checkpoint"),
        ("run/iteration-0/train/checkpoint-2/.checkpoint.json.7.tmp", "checkpoint's manifest"),
        ("run/iteration-0/generations/.shard-00000.parquet.7.tmp", "shard of generations"),
        ("run/start/held-out/sampled/shard-00000.parquet", "shard of held-out answers"),
        ("run/.best.tmp", "best link"),
        ("small.yaml", None),
    ],
)
def test_a_path_has_a_kind(path: str, kind: str | None) -> None:
    """It has the same kind while it is being written under another name."""
    assert kind_of(path) == kind
    assert kind is None or kind in KINDS


def test_what_python_changes_in_a_folder_is_seen_before_it_happens(tmp_path: Path) -> None:
    (tmp_path / "run" / "iteration-0").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()

    def write() -> int:
        os.chdir(tmp_path)
        watch(
            tmp_path,
            lambda found: print(found.kind, found.path, found.creates, found.size, os.path.lexists(found.path)),
        )
        write_atomically(Path("run/best.json"), lambda file: file.write(b"12345"))
        with whole_folder(Path("run/iteration-0/model")) as folder:
            folder.mkdir()
            (folder / "config.json").write_text("{}", encoding="utf-8")
        shutil.rmtree("run/iteration-0/model")
        Path("elsewhere/best.json").write_text("not of the run", encoding="utf-8")
        return 0

    ended = in_a_child(write)
    temporary = f"run/.best.json.{ended.process}.tmp"
    assert ended.output.splitlines() == [
        f"best.json {temporary} True 0 False",
        "best.json run/best.json False 5 False",
        "model run/iteration-0/.model.tmp True 0 False",
        "model run/iteration-0/.model.tmp/config.json True 0 False",
        "model run/iteration-0/model False 0 False",  # the file that it replaces is removed
        "model run/iteration-0/model False 2 False",
        "model run/iteration-0/model/config.json False 0 True",
        "model run/iteration-0/model False 0 True",
    ]
