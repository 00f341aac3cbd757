"""Everything that treats local data specially asks the same function which names are paths."""

from pathlib import Path

import pytest

from spin_trl.data.reading.local import extension, is_local
from spin_trl.models.lineage import dataset_origin


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL.GZ", "x/a.tsv", "./a", "../a", "/a/b", "~/a", "a.csv.zst"])
def test_paths_are_local_whether_they_exist_or_not(name: str) -> None:
    """Paths are recognised by how they begin or by their extension; no card presents one as a name on the Hub."""
    assert is_local(name)
    origin = dataset_origin(None, name)
    assert origin is not None
    assert not origin.on_hub
    assert origin.name == Path(name).name


def test_names_on_the_hub_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder with the same name takes precedence, as in `datasets`."""
    monkeypatch.chdir(tmp_path)
    assert not is_local("org/data")
    assert not is_local("module:function")
    (tmp_path / "org" / "data").mkdir(parents=True)
    assert is_local("org/data")


def test_an_extension_is_found_below_that_of_a_compression() -> None:
    """The extension is returned in lower case."""
    assert [extension(name) for name in ("a.JSONL.gz", "a.b.csv", "a.gz", "a")] == [".jsonl", ".csv", "", ""]
