"""The evaluate phase computes figures on held-out prompts that match a model loaded by transformers alone."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk
from peft import LoraConfig
from transformers import AutoModelForCausalLM

import tiny
from messages import names, refused
from runs import answers, build, entry, logp, steps
from spin_trl.errors import DataError, RecipeError, RunDirectoryError
from spin_trl.evaluation.isolation.probe import probe_layers
from spin_trl.play import evaluate
from spin_trl.play.answering import at_hand
from spin_trl.report.record import read_record
from spin_trl.report.tables import facts
from spin_trl.run.directory import RunDirectory

STAGES = ("start", "iteration-0", "iteration-1")


@pytest.fixture(scope="module")
def played(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two iterations with six held-out prompts, some of whose answers end before the limit."""
    folder = tmp_path_factory.mktemp("played") / "run"
    settings = {"max_new_tokens": 40, "per_iteration": {"temperature": [1.0, 0.5]}, "evaluate_greedy": True}
    build(llama_folder, folder, held_out_fraction=0.4, scorer=length, **settings).run()
    return folder


def length(prompt: str, real: str, generated: str) -> float:
    """Scorer that returns the length."""
    return float(len(generated))


def figures(run_dir: Path, stage: str) -> dict[str, float]:
    """Return the figures of a stage."""
    return json.loads((run_dir / stage / "metrics.json").read_text(encoding="utf-8"))


def model_of(run_dir: Path, stage: str, start: Path) -> Any:
    """Return a stage's model, loaded by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(start if stage == "start" else run_dir / stage / "model").eval()


def test_a_model_is_loaded_once_for_all_that_is_measured(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It samples answers, answers greedily and is scored; with seven billion parameters, each load takes a minute."""
    loads: list[str] = []
    load = at_hand.load_policy

    def counted(path: str, *arguments: Any, **kwargs: Any) -> Any:
        loads.append(Path(path).parent.name)
        return load(path, *arguments, **kwargs)

    monkeypatch.setattr(at_hand, "load_policy", counted)
    build(llama_folder, evaluate_greedy=True, num_iterations=1).run()
    # θ_0 for its figures and again for the generations of iteration 0, and θ_1 for its figures.
    assert loads == [llama_folder.parent.name] * 2 + ["iteration-0"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_figures_are_those_of_the_model(stage: str, played: Path, llama_folder: Path) -> None:
    """NLL, log-probabilities, lengths, shares and scores are computed by hand from the model and its answers."""
    rows, model, found = load_from_disk(str(played / "data/held-out")), None, figures(played, stage)
    model = model_of(played, stage, llama_folder)
    sampled, greedy = (answers(played, stage, f"held-out/{how}") for how in ("sampled", "greedy"))
    real = [logp(model, row["prompt_ids"], row["real_ids"]) for row in rows]
    tokens = sum(len(row["real_ids"]) for row in rows)
    own = [sampled[(row["key"], 0)] for row in rows]
    text = tiny.tokenizer()

    def spoken(ids: list[int]) -> str:
        return text.decode(ids, skip_special_tokens=True)

    expected = {
        "held_out": len(rows),
        "nll": -sum(real) / tokens,
        "logps/real": sum(real) / len(rows),
        "length_real": tokens / len(rows),
        "length_generated": sum(map(len, own)) / len(rows),
        "truncated": sum(not set(ids) & {0, 2} for ids in own) / len(rows),
        "empty": sum(len(ids) == 1 and ids[0] in (0, 2) for ids in own) / len(rows),
        "identical": sum(ids == row["real_ids"] for ids, row in zip(own, rows, strict=True)) / len(rows),
        "score": sum(len(spoken(ids)) for ids in own) / len(rows),
        "score_greedy": sum(len(spoken(greedy[(row["key"], 0)])) for row in rows) / len(rows),
    }
    assert len(rows) == 6
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert {"nll_se", "score_se", "score_greedy_se"} <= set(found)


@pytest.mark.parametrize(("stage", "opponent"), list(zip(STAGES[1:], STAGES, strict=False)))
def test_the_win_rate_compares_with_the_opponent(stage: str, opponent: str, played: Path, llama_folder: Path) -> None:
    """The win rate is how often the log-ratio of the human response exceeds that of the opponent's own answer to the
    same prompt.
    """
    rows = load_from_disk(str(played / "data/held-out"))
    policy, frozen = (model_of(played, name, llama_folder) for name in (stage, opponent))
    theirs = answers(played, opponent, "held-out/sampled")
    wins, generated = 0, 0.0
    for row in rows:
        answer = theirs[(row["key"], 0)]
        ratios = [
            logp(policy, row["prompt_ids"], ids) - logp(frozen, row["prompt_ids"], ids)
            for ids in (row["real_ids"], answer)
        ]
        assert abs(ratios[0] - ratios[1]) > 1e-3, "the test needs clear cases"
        wins += ratios[0] > ratios[1]
        generated += logp(policy, row["prompt_ids"], answer)
    found = figures(played, stage)
    assert found["win_rate"] == pytest.approx(wins / len(rows))
    assert found["logps/generated"] == pytest.approx(generated / len(rows), rel=1e-4)
    assert "win_rate" not in figures(played, "start"), "the start has no opponent"


def test_every_model_answers_under_the_same_conditions(played: Path) -> None:
    """All use the temperature and seeds of iteration 0, so differences come from the models; greedy answers are greedy."""
    for stage in STAGES:
        manifests = [
            json.loads((played / stage / "held-out" / how / "generations.json").read_text(encoding="utf-8"))
            for how in ("sampled", "greedy")
        ]
        assert [manifest["sampling"]["temperature"] for manifest in manifests] == [1.0, 0.0]
        assert {manifest["iteration"] for manifest in manifests} == {0}
        assert {manifest["sampling"]["seed"] for manifest in manifests} == {42}
        assert {manifest["sampling"]["num_generations"] for manifest in manifests} == {1}


@pytest.mark.parametrize("stage", STAGES)
def test_samples_show_what_was_said(stage: str, played: Path) -> None:
    """There is one line per held-out prompt, as plain text, with the score."""
    rows = load_from_disk(str(played / "data/held-out"))
    said = answers(played, stage, "held-out/sampled")
    lines = [json.loads(line) for line in (played / stage / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["key"] for line in lines] == rows["key"][:]
    for line, row in zip(lines, rows, strict=True):
        assert (line["prompt"], line["real"]) == (row["prompt"], row["real"])
        assert line["generated"] == tiny.tokenizer().decode(said[(row["key"], 0)], skip_special_tokens=True)
        assert line["finish_reason"] in ("eos", "length")
        assert line["score"] == len(line["generated"])


def test_the_journal_has_the_figures_too(played: Path) -> None:
    """Tools can follow a run by its journal alone."""
    for stage in STAGES:
        recorded = entry("evaluate", stage, played)
        assert {name: recorded[name] for name in figures(played, stage)} == figures(played, stage)
        assert recorded["work_seconds"] <= recorded["seconds"] + 1e-3


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Existing answers are not generated again, and the figures equal those of an uninterrupted run."""
    build(llama_folder, "whole", num_iterations=1).run()
    run = build(llama_folder, num_iterations=1)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "write_json", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.run_phase("start", 0)
    shards = {path: path.stat().st_mtime_ns for path in Path("run/start/held-out/sampled").glob("shard-*")}
    assert shards
    assert ("evaluate", "start") not in steps()
    run.run()
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    for stage in ("start", "iteration-0"):
        assert figures(Path("run"), stage) == figures(Path("whole"), stage)


def test_an_adapter_is_measured_with_its_base(llama_folder: Path) -> None:
    """After training on the same kind of data, the NLL of an adapter's model is finite and lower than the start's."""
    build(llama_folder, num_iterations=1, num_train_epochs=3, peft_config=LoraConfig(task_type="CAUSAL_LM")).run()
    start, after = (figures(Path("run"), stage)["nll"] for stage in ("start", "iteration-0"))
    assert math.isfinite(after)
    assert after != start


def test_a_scorer_may_return_named_numbers(llama_folder: Path) -> None:
    """Each name is a separate figure."""

    def marks(prompt: str, real: str, generated: str) -> dict[str, float]:
        return {"letters": len(generated), "capitals": sum(map(str.isupper, generated))}

    build(llama_folder, num_iterations=1, scorer=marks).run()
    found = figures(Path("run"), "start")
    lines = [json.loads(line) for line in Path("run/start/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    letters = [value for name, value in found.items() if name.endswith("letters")]
    assert letters == [pytest.approx(sum(len(line["generated"]) for line in lines) / len(lines))]
    assert any("capitals" in name for name in found)


def test_every_iteration_is_compared_with_the_model_before_on_the_same_prompts(played: Path) -> None:
    """The mean of the prompt-by-prompt differences does not depend on how hard the prompts are."""
    before: dict[str, float] = {}
    for stage in STAGES:
        lines = (played / stage / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        scores = {line["key"]: line["score"] for line in map(json.loads, lines)}
        found = figures(played, stage)
        if before:
            expected = sum(scores[key] - before[key] for key in before) / len(before)
            assert found["score_change"] == pytest.approx(expected)
            assert found["score_change_low"] <= expected <= found["score_change_high"]
            assert 0 <= found["score_change_p"] <= 1
            earlier = figures(played, STAGES[STAGES.index(stage) - 1])
            assert found["nll_change"] == pytest.approx(found["nll"] - earlier["nll"])
            assert "win_rate_change" not in found
        else:
            assert not any("change" in name for name in found)
        before = scores
    assert len(before) == 6
    assert "change [95 %]" in (played / "table.txt").read_text(encoding="utf-8")


def test_a_recipe_names_its_scorers(llama_folder: Path) -> None:
    """There may be one or several; several are distinguished by their names."""
    build(llama_folder, num_iterations=1, scorer=["exact_match", "regex:[a-z]"]).run()
    found = figures(Path("run"), "iteration-0")
    assert {"score/exact_match", "score/[a-z]", "score/[a-z]_change"} <= set(found)
    with refused(RecipeError, "`scorer`", "'exact'", "exact_match"):
        build(llama_folder, "other", scorer="exact")


@pytest.mark.slow
def test_a_scorer_gets_the_columns_that_it_names(llama_folder: Path) -> None:
    """The columns are those of its own row, also when the run is resumed; a missing column is reported before anything
    is written.
    """
    rows = tiny.sft(15)
    rows = rows.add_column("level", list(range(15))).add_column("answer_of", rows["prompt"][:])

    def named(
        prompt: str, real: str, generated: str, answer_of: str, level: int, missing: int = 7
    ) -> dict[str, float]:
        return {"own": float(answer_of == prompt), "level": float(level), "missing": float(missing)}

    build(llama_folder, num_iterations=1, train_dataset=rows, scorer=named).run()
    found = figures(Path("run"), "iteration-0")
    levels = dict(zip(rows["prompt"], rows["level"], strict=True))
    held_out = load_from_disk("run/data/held-out")["prompt"]
    assert found["score/own"] == 1
    assert found["score/level"] == pytest.approx(sum(levels[prompt] for prompt in held_out) / len(held_out))
    assert found["score/missing"] == 7
    build(llama_folder, num_iterations=1, train_dataset=rows, scorer=named).run()
    with refused(DataError, "`answer_of`", "`level`"):
        build(llama_folder, "other", scorer=named)
    assert not Path("other").exists()

    def others(prompt: str, real: str, generated: str, prompt_again: str) -> float:
        return 0.0

    rows = rows.rename_column("answer_of", "prompt_again")
    with refused(RunDirectoryError, "`prompt_again`", "run"):
        build(llama_folder, num_iterations=2, train_dataset=rows, scorer=others).run()


def test_generated_code_is_scored_and_its_isolation_reported(llama_folder: Path) -> None:
    """A tiny model writes no working code; the test checks that it was run, and with which isolation."""
    if probe_layers().lacks:
        pytest.skip(f"needs {'; '.join(probe_layers().lacks)}")
    rows = tiny.sft(15).add_column("test_list", [["assert f(1) == 2"]] * 15)
    settings = {"scorer": "python_tests", "allow_generated_code": True, "metric_for_best_iteration": "score/all"}
    build(llama_folder, num_iterations=1, train_dataset=rows, **settings).run()
    found = figures(Path("run"), "iteration-0")
    assert (found["score/all"], found["score/share"], found["score/in_child"]) == (0, 0, 0)
    assert entry("evaluate", "iteration-0")["isolation"] == list(probe_layers().layers)
    assert "Landlock" in facts(read_record(RunDirectory(Path("run"))))["Generated code"]


def test_a_scorer_that_fails_stops_the_run_and_can_be_repaired(llama_folder: Path) -> None:
    """Its own error is shown, nothing is recorded, and the run can be resumed with a scorer that works."""
    own = ZeroDivisionError("the scorer's own words")

    def broken(prompt: str, real: str, generated: str) -> float:
        raise own

    with refused(RecipeError, "ZeroDivisionError", own, Path(__file__).name):
        build(llama_folder, num_iterations=1, scorer=broken).run()
    assert steps() == [("prepare", "data")]
    build(llama_folder, num_iterations=1, scorer=length).run()
    assert "score" in figures(Path("run"), "iteration-0")


def test_a_score_that_is_no_number_is_counted_and_its_prompt_named(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The figure is the mean of the others, here those whose real response differs from the first one's."""
    first: list[str] = []

    def odd(prompt: str, real: str, generated: str) -> float:
        first[:] = first or [real]
        return math.nan if real == first[0] else float(len(real))

    build(llama_folder, num_iterations=1, held_out_fraction=0.4, scorer=odd).run()
    lines = [json.loads(line) for line in Path("run/start/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    unscored = [line["key"] for line in lines if line["score"] is None]
    others = [line["score"] for line in lines if line["score"] is not None]
    assert unscored
    assert figures(Path("run"), "start")["score"] == pytest.approx(sum(others) / len(others))
    assert entry("evaluate", "start")["unscored"] == {"score": len(unscored)}
    assert names(caplog.text, "start", "`score`", str(len(unscored)), unscored[0])


def test_nothing_is_called_the_best_by_a_metric_that_it_does_not_have(
    llama_folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scorer breaks after the start has been evaluated, so the iteration is neither the best nor a regression."""
    code = "calls = []\n\ndef f(*texts):\n    calls.append(1)\n    return 1.0 if len(calls) <= 3 else float('nan')\n"
    Path("breaking_scorer.py").write_text(code, encoding="utf-8")
    build(
        llama_folder,
        num_iterations=1,
        metric_for_best_iteration="score",
        greater_is_better_iteration=True,
        scorer="breaking_scorer:f",
    ).run()
    assert figures(Path("run"), "start")["score"] == 1.0
    assert "score" not in figures(Path("run"), "iteration-0")
    assert json.loads(Path("run/best.json").read_text(encoding="utf-8"))["stage"] == "start"
    assert entry("gate", "iteration-0")["decision"] == "continued"
    assert names(capsys.readouterr().out + caplog.text, "iteration-0", "`score`")


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_a_real_response_is_measured_as_far_as_it_is_trained_on(mode: str, tmp_path: Path) -> None:
    """`max_length` cuts it. The model has too few positions for all of it; with other models it could exceed the memory."""
    folder = tiny.save(tmp_path / "model", tiny.model("gpt2", n_positions=64))
    long = "An answer of many words. " * 60
    rows, retained = (Dataset.from_list([{"prompt": f"Who? {one}?", "completion": long}]) for one in ("Ann", "Bob"))
    settings = {"max_length": 40, "truncation_mode": mode, "max_new_tokens": 8, "num_iterations": 1}
    session = build(folder, train_dataset=tiny.sft(9), eval_dataset=rows, retain_dataset=retained, **settings)
    session.run()
    model = model_of(Path("run"), "start", folder)
    measured = {
        "start": session.state.rows(held_out=True),
        "start/retention": session.state.measured_rows("retention"),
    }
    for where, [row] in measured.items():
        whole, prompt = [*row["prompt_ids"], *row["real_ids"]], len(row["prompt_ids"])
        assert 1 < prompt < 40 < 64 < len(whole)
        kept, split = (whole[:40], prompt) if mode == "keep_start" else (whole[-40:], 1)
        expected = -logp(model, kept[:split], kept[split:]) / (40 - split)
        assert figures(Path("run"), where)["nll"] == pytest.approx(expected, abs=1e-4)
