"""A settings file with any content is read, or the message says what is wrong with it."""

from pathlib import Path

import pytest

from messages import names, refused
from spin_trl.cli import main
from spin_trl.config.yaml_files import read_yaml
from spin_trl.errors import RecipeError

ODD = {
    "a tab": b"a:\n\t- b",
    "an open bracket": b"a: [",
    "5,000 digits": b"seed: " + b"7" * 5000,
    "no such day": b"seed: 2020-13-45",
    "no such time": b"seed: !!float 1:x",
    "an empty number": b"seed: !!int ''",
    "no such truth": b"use_cpu: !!bool a",
    "beyond Unicode": b'run_name: "\\UFFFFFFFF"',
    "deep": b"seed: " + b"[" * 5000,
    "deep, by indentation": b"".join(b" " * depth + b"a:\n" for depth in range(1500)),
    "UTF-16": "seed: 1".encode("utf-16"),
    "Latin-1": "run_name: \xe9".encode("latin-1"),
    "NUL": b"seed: \0",
    "a list": b"- seed",
    "a text": b"seed",
    "a key that is none": b"? {a: b}\n: c",
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_what_can_not_be_read_is_refused_by_its_name(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The function and the commands that read a recipe name the file."""
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with refused(RecipeError, path):
        read_yaml(path)
    for command in ("run", "plan"):
        assert main([command, str(path)]) == 2
        assert names(capsys.readouterr().err, path)


def test_an_empty_file_holds_no_settings(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n", encoding="utf-8")
    assert read_yaml(tmp_path / "empty.yaml") == {}
