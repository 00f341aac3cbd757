"""The public names exist, and cost nothing until they are used."""

import configparser
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import spin_trl
from messages import refused
from project.repository import TOP, copy_of_the_tree

PUBLIC = {
    "DataCollatorForSelfPlay",
    "SPINConfig",
    "SPINTrainer",
    "SelfPlay",
    "SelfPlayConfig",
    "StartConfig",
    "__version__",
}


def test_the_public_names_are_these() -> None:
    """Removing a name is a breaking change, and a new one is a promise."""
    assert set(spin_trl.__all__) == PUBLIC
    assert set(dir(spin_trl)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name: str) -> None:
    """Each is the object of its name."""
    found = getattr(spin_trl, name)
    assert isinstance(found, str) if name == "__version__" else found.__name__ == name


def test_names_that_are_not_there_are_attribute_errors() -> None:
    """Python modules raise the same error."""
    with refused(AttributeError, "'spin_trl'", "'Nothing'"):
        spin_trl.Nothing  # noqa: B018
    with pytest.raises(ImportError):
        from spin_trl import Nothing  # type: ignore[attr-defined]  # noqa: F401


def test_everything_can_be_imported_at_once() -> None:
    """`from spin_trl import *` gives the public names."""
    space: dict[str, object] = {}
    exec("from spin_trl import *", space)
    assert set(space) >= PUBLIC - {"__version__"}


def test_importing_the_package_does_not_import_torch() -> None:
    """Importing torch and TRL takes seconds, which the package and its command line's help avoid."""
    heavy = ("torch", "transformers", "trl", "datasets", "peft", "accelerate", "matplotlib")
    code = (
        "import sys, spin_trl, spin_trl.cli, spin_trl.errors\n"
        "spin_trl.__version__, spin_trl.__all__, dir(spin_trl)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the files of a wheel that is built from this tree, by their installed names."""
    tree = copy_of_the_tree(
        tmp_path_factory.mktemp("tree"),
        *("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE", "spin_trl", "recipes"),
    )
    done = subprocess.run(
        [sys.executable, "-c", "from setuptools.build_meta import build_wheel; build_wheel('.')"],
        cwd=tree,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tree.glob("*.whl")
    return {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}


def files_of(folder: str) -> set[str]:
    """Return the files of a folder of the repository, without Python's caches."""
    files = (path for path in (TOP / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(TOP).as_posix() for path in files}


def test_every_folder_of_the_package_is_shipped(wheel: set[str]) -> None:
    """Folders are found automatically. Recipes are at the top of the repository, and are installed inside the package."""
    shipped = {name for name in wheel if name.endswith(".py")}
    assert shipped == {name for name in files_of("spin_trl") if name.endswith(".py")}
    recipes = {name.removeprefix("spin_trl/") for name in wheel if name.startswith("spin_trl/recipes/")}
    assert recipes == files_of("recipes")


def test_every_file_of_the_package_that_is_no_module_is_shipped(wheel: set[str]) -> None:
    """Without its template, for example, no report could be written."""
    shipped = {name for name in wheel if not name.startswith("spin_trl/recipes/")}
    assert shipped == files_of("spin_trl")
    assert any(name.endswith("report.html.j2") for name in shipped)


def test_the_command_is_where_scripts_and_notebooks_have_it() -> None:
    """It stays `spin_trl.cli:main`, in whichever file it is written, and is the same as `python -m spin_trl`."""
    settings = configparser.ConfigParser()
    settings.read(Path(spin_trl.__file__).parents[1] / "setup.cfg")
    assert settings["options.entry_points"]["console_scripts"].split() == ["spin-trl", "=", "spin_trl.cli:main"]
    assert callable(importlib.import_module("spin_trl.cli").main)
