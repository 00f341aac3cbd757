"""The files written by a step are compared with the checksums in the journal."""

import json
from pathlib import Path

import pytest

from messages import names
from spin_trl.files import Checksum, checksums_in
from spin_trl.run import checked
from spin_trl.run.directory import RunDirectory
from spin_trl.run.integrity import damage, recorded
from spin_trl.run.journal import CHECKSUMS


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model's folder in a run directory, with no checksums remembered."""
    monkeypatch.setattr(checked.constants, "HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "run" / "start" / "model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "here", "r": 8}', encoding="utf-8")
    (folder / "README.md").write_text("A card.", encoding="utf-8")
    return folder


def found(model: Path, files: dict[str, list[object]]) -> list[str]:
    """Describe the damage."""
    return [str(one) for one in damage(RunDirectory(model.parents[1]), {CHECKSUMS: files})]


def test_what_is_as_it_was_written_is_not_damaged(model: Path) -> None:
    """A card may have grown, and an adapter's base may have moved. An entry without checksums has no damage."""
    files = recorded("start/model", checksums_in(model, {}))
    assert set(files) == {"start/model/model.safetensors", "start/model/adapter_config.json"}
    assert files["start/model/model.safetensors"] == [7, Checksum.of_bytes(b"weights").sha256]
    (model / "README.md").write_text("Another card.", encoding="utf-8")
    (model / "adapter_config.json").write_text(
        json.dumps({"r": 8, "base_model_name_or_path": "elsewhere"}), encoding="utf-8"
    )
    assert found(model, files) == []
    assert list(damage(RunDirectory(model.parents[1]), {})) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b"weight"),
        ("model.safetensors", b"Weights"),
        ("adapter_config.json", b'{"base_model_name_or_path": "here", "r": 9}'),
        ("adapter_config.json", b"{"),
    ],
)
def test_what_has_changed_is_named(model: Path, name: str, content: bytes | None) -> None:
    files = recorded("start/model", checksums_in(model, {}))
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_bytes(content)
    only = found(model, files)
    assert len(only) == 1
    assert names(only[0], model / name)
