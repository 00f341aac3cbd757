"""`spin-trl completion`: a shell completes commands, options, settings and recipe names."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from messages import names
from spin_trl.cli import main
from spin_trl.config import shipped


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the scripts of all shells."""
    pytest.importorskip("shtab")
    found = {}
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        found[shell] = capsys.readouterr().out
    return found


def test_scripts_know_commands_options_settings_and_recipes(script: dict[str, str]) -> None:
    for text in script.values():
        for word in ("preview", "init", "baseline", "iteration", "learning_rate", "held_out_max", *shipped.recipes()):
            assert word in text


def test_bash_completes(script: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    (tmp_path / "script").write_text(script["bash"], encoding="utf-8")
    (tmp_path / "my-recipe.yaml").touch()
    asked = {
        "pre": "preview",
        "run zephyr-7b/": "zephyr-7b/iris",
        "run my-re": "my-recipe.yaml",
        "run quickstart --learning_": "--learning_rate",
        "init --mod": "--model",
        "completion z": "zsh",
    }
    for line, expected in asked.items():
        words = " ".join(f"'{word}'" for word in ["spin-trl", *line.split()])
        asks = f"COMP_WORDS=({words}); COMP_CWORD={len(line.split())}; _shtab_spin_trl"
        command = f". ./script; {asks}; echo ${{COMPREPLY[@]}}"
        found = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False
        )
        assert expected in found.stdout.split(), (line, found)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert names(capsys.readouterr().err, "`pip install shtab`")
