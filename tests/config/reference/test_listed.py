"""The listed settings match the code under any installed version of TRL, without importing it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from messages import refused
from shipped_settings import of_shipped_versions
from spin_trl.config.reference import described, listed
from spin_trl.config.reference.known import KnownSetting, settings_as_json
from spin_trl.config.reference.listed import every_setting, installed_versions, looked_up, shipped_file
from spin_trl.errors import RecipeError

SETTINGS = {setting.name: setting for setting in described.describe()}
OTHER = {"trl": "99.0.0", "transformers": "98.0.0"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "spin_trl"


@pytest.fixture
def another_trl(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend that another TRL with two settings is installed; return the calls that describe it."""
    asked: list[str] = []

    def describe() -> list[KnownSetting]:
        asked.append("described")
        return [SETTINGS["learning_rate"], SETTINGS["temperature"]]

    monkeypatch.setattr(listed, "installed_versions", lambda: dict(OTHER))
    monkeypatch.setattr(described, "describe", describe)
    return asked


@of_shipped_versions
def test_the_shipped_file_is_what_the_code_has() -> None:
    """`make reference` writes it. Its name has the version of TRL that it is read for."""
    versions = installed_versions()
    content = json.loads(shipped_file().read_text(encoding="utf-8"))
    assert shipped_file().name == f"settings-trl-{content['versions']['trl']}.json"
    assert shipped_file().read_text(encoding="utf-8") == settings_as_json(SETTINGS.values(), versions)
    assert every_setting() == list(SETTINGS.values())


def test_another_trl_is_asked_once(another_trl: list[str], cache: Path) -> None:
    """After that, its settings are read from the cache."""
    imports: list[str] = []
    for _ in range(2):
        found = every_setting(lambda: imports.append("imported"))
        assert [setting.name for setting in found] == ["learning_rate", "temperature"]
    assert another_trl == ["described"]
    assert imports == ["imported"]
    (kept,) = cache.iterdir()
    assert "99.0.0" in kept.name


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"versions": {}}', '{"versions": 3, "settings": [{}]}', "[" * 5000]
)
def test_a_damaged_cache_is_made_again(another_trl: list[str], cache: Path, content: str) -> None:
    every_setting()
    (kept,) = cache.iterdir()
    kept.write_text(content, encoding="utf-8")
    assert len(every_setting()) == 2
    assert len(every_setting()) == 2
    assert another_trl == ["described"] * 2


def test_a_cache_whose_settings_are_damaged_is_made_again(another_trl: list[str], cache: Path) -> None:
    every_setting()
    (kept,) = cache.iterdir()
    content = json.loads(kept.read_text(encoding="utf-8"))
    del content["settings"][0]["name"]
    kept.write_text(json.dumps(content), encoding="utf-8")
    assert every_setting()[0].name == "learning_rate"
    assert another_trl == ["described"] * 2


def test_without_a_cache_it_works_too(another_trl: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a file is in the place of the cache's folder."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(every_setting()) == 2
    assert another_trl == ["described"]


def test_the_cache_is_in_the_home_unless_an_absolute_path_is_named(
    another_trl: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    every_setting()
    assert [path.suffix for path in (tmp_path / ".cache" / "spin_trl").iterdir()] == [".json"]


def test_where_trl_is_not_installed_the_shipped_settings_are_shown(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "installed_versions", lambda: {"trl": None, "transformers": "98.0.0"})
    assert {setting.name for setting in every_setting()} >= {"learning_rate", "temperature"}
    assert not cache.exists()


@of_shipped_versions
def test_asking_imports_no_torch() -> None:
    code = (
        "import sys\nfrom spin_trl.config.reference.listed import every_setting\nassert len(every_setting()) > 200\n"
        "print({'torch', 'trl', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["beta"], "beta"),
        (["learning-rate"], "learning_rate"),
        (["--max_length"], "max_length"),
        (["lr"], "learning_rate"),
        (["TORCH_DTYPE"], "dtype"),
        (["held", "out"], "held_out_name"),
    ],
)
def test_settings_are_found_by_name_and_by_words(words: list[str], first: str) -> None:
    assert looked_up(words, list(SETTINGS.values()))[0].name == first


@pytest.mark.parametrize("word", ["hub_token", "--hub-token", "wandb_api_key"])
def test_a_token_is_no_setting_and_where_it_belongs_is_said(word: str) -> None:
    with refused(RecipeError, word, "environment"):
        looked_up([word], list(SETTINGS.values()))


def test_all_words_must_be_there() -> None:
    found = {setting.name for setting in looked_up(["lora", "layers"], list(SETTINGS.values()))}
    assert "lora_modules_to_save" in found
    assert "lora_dropout" not in found


@pytest.mark.parametrize(("word", "near"), [("learnign_rate", "learning_rate"), ("flash_attn", "attn_implementation")])
def test_an_unknown_word_names_the_nearest_setting(word: str, near: str) -> None:
    with refused(RecipeError, word, near, "spin-trl settings"):
        looked_up([word], list(SETTINGS.values()))
