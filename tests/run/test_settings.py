"""A run's settings are frozen at its start: changes that would affect its outcome are refused, and secrets are never
written.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig

from messages import names, refused
from spin_trl import SelfPlayConfig, SPINConfig
from spin_trl.config.traits import FREE
from spin_trl.errors import RecipeError, RunDirectoryError
from spin_trl.report.write import read_record
from spin_trl.run.directory import RunDirectory
from spin_trl.run.recipe import read_recipe
from spin_trl.run.run import Run
from spin_trl.run.settings import (
    differences_from_defaults,
    freeze,
    freeze_batch_size,
    frozen_batch_size,
    python_settings,
    renew,
)

CPU: dict[str, Any] = {"use_cpu": True, "bf16": False}


def a_run(tmp_path: Path, play: dict[str, Any] | None = None, peft_config: Any = None, **settings: Any) -> Run:
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir(exist_ok=True)
    args = SPINConfig(str(tmp_path / "out"), **{**CPU, **settings})
    return Run(directory, args, SelfPlayConfig(**(play or {})), "org/model", peft_config=peft_config)


def frozen(run: Run) -> dict[str, Any]:
    return yaml.safe_load(run.directory.recipe.read_text(encoding="utf-8"))


# ---- what is written ----------------------------------------------------------------------------------------------------


def test_tokens_are_never_written(tmp_path: Path) -> None:
    """Run directories are pushed and shared."""
    run = a_run(tmp_path, hub_token="hf_secret")
    freeze(run.directory, python_settings(run))
    assert "hf_secret" not in run.directory.recipe.read_text(encoding="utf-8")


def test_a_run_from_python_says_what_yaml_cant(tmp_path: Path) -> None:
    """Model and LoRA are under `python`, a key that no recipe has."""
    run = a_run(tmp_path, peft_config=LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    written = yaml.safe_load(yaml.safe_dump(python_settings(run)))
    assert written["python"]["model"] == "org/model"
    assert written["python"]["peft_config"]["r"] == 4
    assert written["python"]["peft_config"]["target_modules"] == ["q_proj"]
    assert written["python"]["quantization_config"] is None


# ---- what is compared ---------------------------------------------------------------------------------------------------


def test_a_run_goes_on_under_its_own_settings(tmp_path: Path) -> None:
    """The second call finds the settings of the first and leaves them unchanged."""
    run = a_run(tmp_path, beta=0.5)
    freeze(run.directory, python_settings(run))
    before = run.directory.recipe.read_bytes()
    freeze(a_run(tmp_path, beta=0.5).directory, python_settings(a_run(tmp_path, beta=0.5)))
    assert run.directory.recipe.read_bytes() == before
    assert frozen(run)["beta"] == 0.5


@pytest.mark.parametrize(
    ("before", "now", "parts"),
    [
        ({"beta": 0.5}, {"beta": 0.1}, ("beta", "was 0.5", "now None")),
        ({}, {"temperature": 0.7}, ("temperature", "was None", "now 0.7")),
        ({"loss_type": "space"}, {"loss_type": "hinge"}, ("loss_type", "was ['space']", "now ['hinge']")),
        ({"seed": 1}, {"seed": 2}, ("seed", "was 1", "now 2")),
    ],
)
def test_another_setting_is_another_run(
    before: dict[str, Any], now: dict[str, Any], parts: tuple[str, ...], tmp_path: Path
) -> None:
    """The error names both values and the way out, and the run is not changed."""
    run = a_run(tmp_path, **before)
    freeze(run.directory, python_settings(run))
    content = run.directory.recipe.read_bytes()
    with refused(RunDirectoryError, tmp_path / "run", *parts, "`run_dir`", "`existing_run: overwrite`"):
        freeze(a_run(tmp_path, **now).directory, python_settings(a_run(tmp_path, **now)))
    assert run.directory.recipe.read_bytes() == content


def test_a_rubric_that_has_changed_is_another_run_and_its_criteria_are_named(tmp_path: Path) -> None:
    """Scores by other criteria can't be compared. The run itself holds what its file held, which may be gone."""
    file = tmp_path / "rubric.yaml"
    file.write_text("criteria: [{name: short, words: {max: 9}}, {name: data, format: json}]", encoding="utf-8")

    def with_rubric() -> dict[str, Any]:
        return {**python_settings(run), "rubric": SelfPlayConfig(scorer="rubric", rubric=str(file)).rubric}

    run = a_run(tmp_path)
    freeze(run.directory, with_rubric())
    freeze(run.directory, with_rubric())
    file.write_text("criteria: [{name: short, words: {max: 8}}, {name: data, format: json}]", encoding="utf-8")
    with refused(RunDirectoryError, tmp_path / "run", "rubric", "'short'", "`run_dir`") as error:
        freeze(run.directory, with_rubric())
    assert not names(str(error.value), "'data'")
    file.unlink()
    assert read_recipe(str(run.directory.recipe), accept_python=True).play.rubric["criteria"][0]["words"] == {"max": 9}


def test_every_difference_is_named(tmp_path: Path) -> None:
    """They are not reported one at a time."""
    run = a_run(tmp_path, beta=0.5, seed=1)
    freeze(run.directory, python_settings(run))
    other = a_run(tmp_path, peft_config=LoraConfig(r=4))
    with refused(RunDirectoryError, "beta:", "python:", "seed:"):
        freeze(other.directory, python_settings(other))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"disable_tqdm": True}, {"disable_tqdm": False}),
        ({}, {"save_total_limit": 1}),
        ({}, {"dataloader_num_workers": 2}),
        ({"report_to": "none"}, {}),
    ],
)
def test_what_does_not_change_the_outcome_may_change(
    before: dict[str, Any], now: dict[str, Any], tmp_path: Path
) -> None:
    """Settings for how a run is played and displayed may change."""
    assert {*before, *now} <= FREE
    run = a_run(tmp_path, **before)
    freeze(run.directory, python_settings(run))
    freeze(a_run(tmp_path, **now).directory, python_settings(a_run(tmp_path, **now)))


def rates(*values: float) -> dict[str, Any]:
    return {"num_iterations": len(values), "per_iteration": {"learning_rate": list(values)}}


def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    """There may be more iterations, with longer lists; the values of those already played must be the same."""
    run = a_run(tmp_path, rates(5e-7, 1e-7))
    freeze(run.directory, python_settings(run))
    longer = a_run(tmp_path, rates(5e-7, 1e-7, 1e-8))
    freeze(longer.directory, python_settings(longer))
    other = a_run(tmp_path, rates(5e-7, 2e-7, 1e-8))
    with refused(RunDirectoryError, "per_iteration:"):
        freeze(other.directory, python_settings(other))


def test_a_list_for_another_setting_is_another_run(tmp_path: Path) -> None:
    """All iterations had the same value."""
    run = a_run(tmp_path, rates(5e-7, 1e-7))
    freeze(run.directory, python_settings(run))
    other = a_run(tmp_path, {"num_iterations": 2, "per_iteration": {"beta": [0.1, 0.2]}})
    with refused(RunDirectoryError, "per_iteration:"):
        freeze(other.directory, python_settings(other))


def test_a_token_is_never_written_down() -> None:
    """This holds for a setting, and inside the arguments for loading a model."""
    args = SPINConfig(
        use_cpu=True, bf16=False, hub_token="hf_secret", model_init_kwargs={"token": "hf_secret", "revision": "v1"}
    )
    settings = differences_from_defaults(args)
    assert "hf_secret" not in str(settings)
    assert settings["model_init_kwargs"] == {"revision": "v1"}


def test_frozen_settings_that_hold_a_token_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """They may be from an earlier version or written by hand. Neither the run nor its report repeats the token."""
    run = a_run(tmp_path)
    text = yaml.safe_dump({**python_settings(run), "model_init_kwargs": {"headers": {"api_key": "abc123xyz"}}})
    run.directory.recipe.write_text(text, encoding="utf-8")
    for use in (lambda: freeze(run.directory, python_settings(run)), lambda: read_record(run.directory)):
        with pytest.raises(RecipeError) as caught:
            use()
        message = str(caught.value)
        assert message.startswith(f"{run.directory.recipe}: ")
        assert names(message, "`model_init_kwargs.headers.api_key`", "Remove")
        assert "abc123xyz" not in message


def test_a_run_that_was_begun_with_a_token_goes_on_without_it(tmp_path: Path) -> None:
    """Version 0.1.0 dropped the token when it froze the settings, but kept the mapping around it."""
    before = a_run(tmp_path, model_init_kwargs={"token": "hf_secret"})
    freeze(before.directory, python_settings(before))
    assert frozen(before)["model_init_kwargs"] == {}
    now = a_run(tmp_path)
    freeze(now.directory, python_settings(now))
    other = a_run(tmp_path, model_init_kwargs={"revision": "v1"})
    with refused(RunDirectoryError, "model_init_kwargs:", {"revision": "v1"}):
        freeze(other.directory, python_settings(other))


def test_what_may_change_is_written_anew(tmp_path: Path) -> None:
    """A separately launched phase reads the settings there, including the iterations of an extended run."""
    run = a_run(tmp_path, play={"num_iterations": 2})
    freeze(run.directory, python_settings(run))
    longer = a_run(tmp_path, play={"num_iterations": 4})
    freeze(longer.directory, python_settings(longer))
    assert yaml.safe_load(run.directory.recipe.read_text(encoding="utf-8"))["num_iterations"] == 2
    renew(longer.directory, python_settings(longer))
    assert yaml.safe_load(run.directory.recipe.read_text(encoding="utf-8"))["num_iterations"] == 4
    stamp = run.directory.recipe.stat().st_mtime_ns
    renew(longer.directory, python_settings(longer))
    assert run.directory.recipe.stat().st_mtime_ns == stamp


# ---- other names for the same things ------------------------------------------------------------------------------------


def begun(folder: Path, **settings: Any) -> RunDirectory:
    """Return a run with prepared data, started from `folder`'s parent."""
    directory = RunDirectory(folder)
    directory.ownership.claim()
    freeze(directory, settings)
    directory.own("journal.jsonl").write_text('{"phase": "prepare", "stage": "data"}\n', encoding="utf-8")
    return directory


def asked(answer: bool, calls: list[bool]) -> Any:
    """Stand in for loading and hashing a model."""

    def is_same() -> bool:
        calls.append(answer)
        return answer

    return is_same


def test_the_same_paths_from_another_folder_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is hashed, and the settings keep their spelling."""
    (tmp_path / "model").mkdir()
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "run", model_name_or_path="model", dataset_name="train.jsonl", seed=1)
    monkeypatch.chdir("other")
    directory, calls = RunDirectory("../run"), []
    now = {"model_name_or_path": str(tmp_path / "model"), "dataset_name": "../train.jsonl", "seed": 1}
    freeze(directory, now, asked(False, calls))
    renew(directory, {**now, "num_iterations": 4})
    assert yaml.safe_load(directory.recipe.read_text(encoding="utf-8")) == {
        "model_name_or_path": "model",
        "dataset_name": "train.jsonl",
        "seed": 1,
        "num_iterations": 4,
    }
    assert (calls, directory.ownership.paths_from()) == ([], tmp_path.resolve())


def test_a_model_of_another_name_is_asked_for_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens once, and only if nothing else differs; the message names both models."""
    monkeypatch.chdir(tmp_path)
    directory, calls = begun(tmp_path / "run", model_name_or_path="org/model", seed=1), []
    now = {"model_name_or_path": "mirror/model", "model_revision": "v1", "seed": 1}
    freeze(directory, now, asked(True, calls))
    assert calls == [True]
    with refused(RunDirectoryError, "model_name_or_path:", "was 'org/model'", "now 'mirror/model'"):
        freeze(directory, now, asked(False, calls))
    with refused(RunDirectoryError, "seed:", "was 1", "now 2"):
        freeze(directory, {**now, "seed": 2}, asked(True, calls))
    assert calls == [True, False]


def test_a_model_of_another_name_is_asked_for_its_weights_from_python_too(tmp_path: Path) -> None:
    directory = begun(tmp_path / "run", python={"model": "org/model", "peft_config": None})
    freeze(directory, {"python": {"model": "mirror/model", "peft_config": None}}, lambda: True)
    with refused(RunDirectoryError, "python:"):
        freeze(directory, {"python": {"model": "org/model", "peft_config": {"r": 4}}}, lambda: True)


def test_data_of_another_name_is_compared_when_it_is_prepared(tmp_path: Path) -> None:
    """Until something has been prepared, there is nothing to compare with."""
    directory = begun(tmp_path / "run", dataset_name="org/data", dataset_revision="v1")
    freeze(directory, {"dataset_name": "copy.jsonl"})
    directory.journal.unlink()
    with refused(RunDirectoryError, "dataset_name:", "'org/data'", "'copy.jsonl'"):
        freeze(directory, {"dataset_name": "copy.jsonl"})


def test_settings_of_a_run_are_read_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase launched from another folder finds data and model, even if the whole project was moved."""
    (tmp_path / "project" / "model").mkdir(parents=True)
    (tmp_path / "project" / "train.jsonl").touch()
    monkeypatch.chdir(tmp_path / "project")
    named = {"model_name_or_path": "model", "dataset_name": "train.jsonl", "held_out_name": "a/b"}
    begun(Path("runs/my"), **CPU, **named, run_dir="runs/my")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").rename("moved")
    recipe = read_recipe(str(Path("moved/runs/my")))
    place = (tmp_path / "moved").resolve()
    assert recipe.model.model_name_or_path == str(place / "model")
    assert recipe.data.dataset_name == str(place / "train.jsonl")
    assert recipe.data.held_out_name == "a/b"
    assert recipe.play.run_dir == str(place / "runs" / "my")
    assert recipe.name == "my"
    monkeypatch.chdir("moved")
    assert read_recipe("runs/my").data.dataset_name == "train.jsonl"


@pytest.mark.parametrize(("size", "kept"), [(16, 16), (64, None)])
def test_an_automatic_batch_size_is_kept_as_the_number_that_it_became(
    size: int, kept: int | None, tmp_path: Path
) -> None:
    """The recipe may still say `auto`, but another number is another run. A default is left out, as always."""
    run = a_run(tmp_path, generation_batch_size="auto", beta=0.5)
    settings = python_settings(run)
    freeze(run.directory, settings)
    assert frozen_batch_size(run.directory) == "auto"
    freeze_batch_size(run.directory, size)
    freeze(run.directory, settings)
    renew(run.directory, settings)
    assert (frozen(run).get("generation_batch_size"), frozen(run)["beta"]) == (kept, 0.5)
    assert frozen_batch_size(run.directory) == size
    other = a_run(tmp_path, generation_batch_size=32, beta=0.5)
    with refused(RunDirectoryError, "generation_batch_size:", "now 32"):
        freeze(other.directory, python_settings(other))
