"""A run is opened from its directory alone, with its own settings, and no code in the directory is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import BitsAndBytesConfig

import runs
import tiny
from messages import refused
from spin_trl import SelfPlayConfig, SPINConfig
from spin_trl.errors import RecipeError, RunDirectoryError
from spin_trl.play.open import OF_THE_MACHINE, reopen
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import Journal, Step
from spin_trl.run.run import Run
from spin_trl.run.settings import freeze, python_settings

CPU = {"use_cpu": True, "bf16": False}


def begun(path: Path, settings: dict[str, Any]) -> RunDirectory:
    """Return a run directory with these frozen settings."""
    directory = RunDirectory(path)
    directory.claim("continue")
    directory.own("recipe.yaml").write_text(yaml.safe_dump({**runs.SETTINGS, **settings}), encoding="utf-8")
    return directory


def from_python(path: Path, **objects: Any) -> RunDirectory:
    """Return the directory of a run that was started from Python."""
    directory = RunDirectory(path)
    directory.claim("continue")
    freeze(
        directory, python_settings(Run(directory, SPINConfig("out", **CPU), SelfPlayConfig(), "org/model", **objects))
    )
    return directory


def test_a_run_is_opened_without_its_data_and_scorer(tmp_path: Path) -> None:
    """They may not exist on this machine."""
    frozen = {
        "dataset_name": "/gone/rows.jsonl",
        "model_name_or_path": "org/model",
        "scorer": "gone:score",
        "beta": 0.5,
    }
    run = reopen(str(begun(tmp_path / "run", frozen).path))
    assert (run.model, run.args.beta, run.play.num_iterations, run.scorer) == ("org/model", 0.5, 2, None)
    assert run.args.learning_rate == runs.SETTINGS["learning_rate"]
    assert run.directory.path == tmp_path / "run"


@pytest.mark.parametrize("source", ["nowhere", "."])
def test_what_is_no_run_is_refused(source: str) -> None:
    with refused(RunDirectoryError, source, "recipe.yaml"):
        reopen(source)
    assert not Path("nowhere").exists()


def test_only_what_the_machine_needs_may_be_another(tmp_path: Path) -> None:
    directory = begun(tmp_path / "run", {"model_name_or_path": "org/model", "disable_tqdm": False})
    for override in (["--beta", "1"], ["--beta=1"], ["--use_cpu", "true", "--run_dir", "x"]):
        with refused(RecipeError, "`--beta`" if "beta" in override[0] else "`--run_dir`", *OF_THE_MACHINE):
            reopen(str(directory.path), override)
    assert reopen(str(directory.path), ["--disable_tqdm", "true"]).args.disable_tqdm is True


def test_code_of_models_that_came_with_a_directory_is_refused_until_it_is_trusted(tmp_path: Path) -> None:
    directory = begun(tmp_path / "run", {"model_name_or_path": "org/model", "trust_remote_code": True})
    with refused(RunDirectoryError, "trust_remote_code", "`--trust_run`"):
        reopen(str(directory.path))
    assert reopen(str(directory.path), trust_run=True).args.trust_remote_code
    assert reopen(str(directory.path)).args.trust_remote_code  # it is remembered


def test_a_run_from_python_is_opened_with_what_was_written_down(tmp_path: Path) -> None:
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    run = reopen(str(from_python(tmp_path / "run", quantization_config=quantised).path))
    assert run.model == "org/model"
    assert run.quantization_config is not None
    assert run.quantization_config.to_dict() == quantised.to_dict()


def test_a_model_and_a_tokenizer_that_were_given_as_objects_lie_in_the_directory(tmp_path: Path) -> None:
    directory = from_python(tmp_path / "run")
    Journal(directory.own("journal.jsonl")).append(Step.GIVEN, "start", digest="x")
    assert reopen(str(directory.path)).processing_class is None
    tiny.tokenizer(chat_template="{{ messages }}").save_pretrained(directory.own("iteration-0") / "model")
    run = reopen(str(directory.path))
    assert run.model == str(directory.path / "start/model")
    assert run.processing_class is not None
    assert run.processing_class.chat_template == "{{ messages }}"
