"""`spin-trl fetch` downloads a model and prints what to do with it."""

from pathlib import Path
from typing import Any

import pytest

from messages import names
from spin_trl.cli import main


def test_it_says_how_to_name_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("spin_trl.play.first_steps.fetch.fetch", lambda name, say: say("Downloading") or tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "")
    assert main(["fetch", "smollm2-135m"]) == 0
    said = capsys.readouterr().out
    assert names(
        said, "Downloading", "HuggingFaceTB/SmolLM2-135M-Instruct", "Q4_1", "model_name_or_path: smollm2-135m"
    )


def test_an_unknown_model_is_refused_with_those_that_are_known(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fetch", "smollm-135m"])
    assert ended.value.code == 2
    assert names(capsys.readouterr().err, "'smollm-135m'", "smollm2-135m")
