"""`engine: auto` chooses once; a run that goes on keeps its engine, and changes to another one if that is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from messages import names, refused
from runs import build
from spin_trl.errors import RunDirectoryError
from spin_trl.generation.engine import Response
from spin_trl.generation.store import GenerationStore, Manifest
from spin_trl.generation.vllm.choice import EngineChoice
from spin_trl.play import settled_engine as module
from spin_trl.play.settled_engine import SettledEngine
from spin_trl.run.run import Run
from spin_trl.run.settings import freeze, renew

CHOSEN = EngineChoice("vllm", "`vllm --version` answers 0.31.0.")


@pytest.fixture
def vllm_answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let vLLM be found; return the list of the choices."""
    found: list[str] = []

    def choose(*_: Any) -> EngineChoice:
        found.append(CHOSEN.engine)
        return CHOSEN

    monkeypatch.setattr(module, "choose_engine", choose)
    return found


def settled(run: Run, engine: str, *, is_named: bool = True) -> tuple[str, dict[str, Any], SettledEngine]:
    """Settle the engine of a run that asks for one. Return what is printed, and the settings."""
    run.args.engine = engine
    settings = {"engine": engine, "seed": 1}
    made = SettledEngine(run, settings, is_named=is_named)
    line = made.settle()
    assert run.args.engine == settings.get("engine", "transformers")
    return line, settings, made


def begun(run: Run, engine: str) -> None:
    """Freeze the settings of a run whose data is prepared."""
    freeze(run.directory, {"seed": 1} | ({} if engine == "transformers" else {"engine": engine}))


def test_auto_chooses_on_a_cpu_without_asking_vllm(llama_folder: Path) -> None:
    run = build(llama_folder, engine="auto", vllm_command=["no-such-vllm"]).state
    line, settings, _ = settled(run, "auto")
    assert names(line, "`engine: auto`", "transformers", "CPU")
    assert "engine" not in settings  # as the recipe of a run with the default


def test_a_run_that_goes_on_keeps_what_it_has_chosen(run: Run, vllm_answers: list[str]) -> None:
    """vLLM was installed, or removed, in the meantime: it isn't even asked."""
    for engine in ("transformers", "vllm"):
        begun(run, engine)
        line, settings, _ = settled(run, "auto")
        assert (line, settings.get("engine", "transformers")) == ("", engine)
        run.directory.recipe.unlink()
    assert vllm_answers == []
    line, settings, _ = settled(run, "auto")
    assert (line, settings["engine"]) == (str(CHOSEN), "vllm")


def test_the_given_settings_are_not_changed(run: Run, vllm_answers: list[str]) -> None:
    args = run.args
    settled(run, "auto")
    assert (args.engine, run.args.engine) == ("auto", "vllm")


def test_the_choice_and_its_reason_are_frozen(run: Run, vllm_answers: list[str]) -> None:
    line, settings, made = settled(run, "auto")
    freeze(run.directory, settings, asked=made.asked, note=line)
    renew(run.directory, {**settings, "run_name": "new"})
    text = run.directory.recipe.read_text(encoding="utf-8")
    assert text.startswith(f"# {CHOSEN}\n")
    assert yaml.safe_load(text) == {"engine": "vllm", "seed": 1, "run_name": "new"}
    # Settings that still say `auto`, as those of a comparison's arm, change nothing.
    freeze(run.directory, {"seed": 1, "engine": "auto"})
    renew(run.directory, {"seed": 1, "engine": "auto"})
    assert yaml.safe_load(run.directory.recipe.read_text(encoding="utf-8")) == {"engine": "vllm", "seed": 1}


@pytest.mark.parametrize(("before", "after"), [("transformers", "vllm"), ("vllm", "transformers")])
def test_another_engine_is_asked_for_by_name(run: Run, before: str, after: str) -> None:
    begun(run, before)
    line, settings, made = settled(run, after)
    assert names(line, before, after)
    freeze(run.directory, settings, asked=made.asked)
    renew(run.directory, settings)
    assert settled(run, after)[0] == ""
    assert settled(run, "auto")[1].get("engine", "transformers") == after


def test_another_engine_may_lack_continuous_batching(run: Run) -> None:
    """Only `transformers` has it, so a run that keeps its engine also keeps the setting."""
    freeze(run.directory, {"seed": 1, "generation_continuous": True})
    _, settings, made = settled(run, "transformers")
    with refused(RunDirectoryError, "generation_continuous"):
        freeze(run.directory, settings, asked=made.asked)
    _, settings, made = settled(run, "vllm")
    freeze(run.directory, settings, asked=made.asked)
    renew(run.directory, settings)
    _, settings, made = settled(run, "transformers")
    freeze(run.directory, {**settings, "generation_continuous": True}, asked=made.asked)


def test_a_default_is_no_name(run: Run) -> None:
    """The recipe says nothing about the engine, which was named on the command line when the run began."""
    begun(run, "vllm")
    _, settings, made = settled(run, "transformers", is_named=False)
    with refused(RunDirectoryError, "engine", "'vllm'", "`--engine transformers`"):
        freeze(run.directory, settings, asked=made.asked)


def test_the_engine_does_not_change_in_the_middle_of_a_generation(run: Run) -> None:
    begun(run, "vllm")
    folder = run.directory.own("iteration-0") / "generations"
    store = GenerationStore(folder)
    store.open(Manifest("d", "t", "m", "vllm", 0, {}, num_rows=1, num_shards=1))
    with refused(RunDirectoryError, "`engine`", "`engine: vllm`", folder):
        settled(run, "transformers")
    assert settled(run, "auto")[1]["engine"] == "vllm"
    store.write_shard(0, [("key", 0, Response([1], "eos"))])
    assert names(settled(run, "transformers")[0], "transformers")


def test_a_run_that_is_overwritten_chooses_anew(run: Run, vllm_answers: list[str]) -> None:
    begun(run, "transformers")
    run.play.existing_run = "overwrite"
    assert settled(run, "auto")[1]["engine"] == "vllm"


def test_a_run_from_python_settles_before_it_is_checked(llama_folder: Path) -> None:
    """What vLLM is refused for does not matter to a run that has chosen transformers."""
    session = build(llama_folder, engine="auto", vllm_command=["no-such-vllm"])
    session.directory.claim("continue")
    session._check_playable()
    session._set_up()
    assert session.state.args.engine == "transformers"
    text = session.directory.recipe.read_text(encoding="utf-8")
    assert text.startswith("# `engine: auto` has chosen transformers.")
    assert "engine" not in yaml.safe_load(text)
