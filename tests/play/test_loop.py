"""`SelfPlay` runs the phases in order, writes the documented files, and can be resumed."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import PartialState
from datasets import Dataset, IterableDataset, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from messages import logged, names, refused
from runs import answers, build, contents, entry, journal, recipe, steps, weights
from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig
from spin_trl.cli import main
from spin_trl.errors import DataError, LaunchError, RecipeError, RunDirectoryError
from spin_trl.play import loop, phases
from spin_trl.play.phases import by_accelerate
from spin_trl.play.prepare import prepare_data
from spin_trl.report.write import write_report
from spin_trl.run.checkpoint import is_of_a_model
from spin_trl.run.directory import RunDirectory

LN2 = math.log(2)
PLAYED = {"baseline": "sft", "evaluate_greedy": True, "save_strategy": "steps", "save_steps": 1}


pytestmark = pytest.mark.drawn


def shout(prompt: str, real: str, generated: str) -> float:
    """Scorer that returns the share of capitals among the letters."""
    return sum(letter.isupper() for letter in generated) / max(len(generated), 1)


@pytest.fixture(scope="module")
def played(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two iterations with a baseline, and its directory, which tests only read."""
    folder = tmp_path_factory.mktemp("played") / "run"
    result = build(
        llama_folder, folder, baseline="sft", evaluate_greedy=True, save_strategy="steps", save_steps=1
    ).run()
    assert result.directory == folder
    return folder


# ---- the files of a run ---------------------------------------------------------------------------------------------


def test_a_run_leaves_what_the_design_says(played: Path) -> None:
    """These are settings, journal, and for every iteration generations, model, figures and samples; checkpoints are
    deleted.
    """
    for name in ("recipe.yaml", "journal.jsonl", "best.json", "table.txt", "plot.png"):
        assert (played / name).stat().st_size > 0, name
    for iteration in (0, 1):
        stage = played / f"iteration-{iteration}"
        assert (stage / "generations" / "generations.json").is_file()
        assert {path.name for path in (stage / "model").iterdir()} >= {
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "README.md",
        }
        assert all(is_of_a_model(path) for path in (stage / "model").iterdir()), "no pickles"
        assert json.loads((stage / "metrics.json").read_text(encoding="utf-8"))["held_out"] == 3
        assert len((stage / "samples.jsonl").read_text(encoding="utf-8").splitlines()) == 3
        assert not (stage / "train").exists(), "an accepted iteration's checkpoints are gone"
    assert not [path for path in played.rglob("*") if path.name.endswith(".tmp")]
    AutoTokenizer.from_pretrained(played / "iteration-1" / "model")
    AutoModelForCausalLM.from_pretrained(played / "iteration-1" / "model")


def test_the_journal_has_one_line_a_finished_step(played: Path) -> None:
    """Lines are in the order in which the steps were played, with figures that summarise each."""
    assert steps(played) == [
        ("prepare", "data"),
        ("evaluate", "start"),
        ("generate", "iteration-0"),
        ("train", "iteration-0"),
        ("evaluate", "iteration-0"),
        ("gate", "iteration-0"),
        ("train", "baseline/sft/iteration-0"),
        ("evaluate", "baseline/sft/iteration-0"),
        ("generate", "iteration-1"),
        ("train", "iteration-1"),
        ("evaluate", "iteration-1"),
        ("gate", "iteration-1"),
        ("train", "baseline/sft/iteration-1"),
        ("evaluate", "baseline/sft/iteration-1"),
    ]
    prepared = entry("prepare", "data", played)
    assert (prepared["train_rows"], prepared["held_out_rows"]) == (12, 3)
    # PyPI's wheels have no build tag (`+cu124`) in their metadata.
    assert prepared["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    for iteration in (0, 1):
        generated = entry("generate", f"iteration-{iteration}", played)
        assert generated["tokens"] == sum(map(len, answers(played, f"iteration-{iteration}").values()))
        trained = entry("train", f"iteration-{iteration}", played)
        assert trained["steps"] == 3
        assert trained["pairs"]["total"] == 12
        for line in (generated, trained):
            assert 0 <= line["work_seconds"] <= line["seconds"]
    times = [line["time"] for line in journal(played)]
    assert times == sorted(times)


@pytest.mark.parametrize("from_a_recipe", [True, False])
def test_every_phase_runs_where_the_settings_say(
    from_a_recipe: bool, tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `use_cpu`, accelerate is never told to use the CPU, so every phase uses the GPU if there is one."""
    told: dict[str, bool] = {}

    def spied(phase: str, play: Callable[..., None]) -> Callable[..., None]:
        def run(*args: object) -> None:
            told[f"before {phase}"] = PartialState()._cpu
            play(*args)
            told[f"after {phase}"] = PartialState()._cpu

        return run

    monkeypatch.setattr(phases, "PHASES", {name: spied(name, play) for name, play in phases.PHASES.items()})
    settings = {"use_cpu": False, "num_iterations": 1}
    if from_a_recipe:
        assert main(["run", str(recipe(tmp_path, llama_folder, **settings))]) == 0
    else:
        build(llama_folder, **settings).run()
    assert {"before generate", "after train", "after evaluate"} <= told.keys()
    assert not any(told.values()), told


def test_every_iteration_starts_at_its_opponent(played: Path) -> None:
    """The first loss is ln 2 and the first margin 0, in iteration 1 as in iteration 0."""
    for iteration in (0, 1):
        trained = entry("train", f"iteration-{iteration}", played)
        assert trained["first"]["loss"] == pytest.approx(LN2, abs=1e-5)
        assert trained["first"]["rewards/margins"] == pytest.approx(0, abs=1e-5)
        assert abs(trained["last"]["loss"] - LN2) > 1e-3


def test_each_iteration_starts_from_the_one_before(played: Path, llama_folder: Path) -> None:
    """The models of the iterations differ, and so do the opponents' answers."""
    folders = [llama_folder, played / "iteration-0" / "model", played / "iteration-1" / "model"]
    assert len({weights(folder) for folder in folders}) == 3
    assert answers(played, "iteration-0").keys() == answers(played, "iteration-1").keys()
    assert answers(played, "iteration-0") != answers(played, "iteration-1")


def test_the_held_out_prompts_are_never_trained_on(played: Path) -> None:
    """No held-out prompt has a generation to train on, and the two parts together are the whole data."""
    train, held_out = (load_from_disk(str(played / "data" / side)) for side in ("train", "held-out"))
    assert not set(train["key"]) & set(held_out["key"])
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert len(train) + len(held_out) == 15
    for iteration in (0, 1):
        assert {key for key, _ in answers(played, f"iteration-{iteration}")} == set(train["key"])
        assert {key for key, _ in answers(played, f"iteration-{iteration}", "held-out/sampled")} == set(
            held_out["key"]
        )


def test_the_table_shows_every_stage_and_marks_the_best(played: Path) -> None:
    """The table that is printed during the run, with start, iterations and the supervised arm, is also written to a file."""
    table = (played / "table.txt").read_text(encoding="utf-8")
    best = json.loads((played / "best.json").read_text(encoding="utf-8"))["stage"]
    for stage in ("start", "iteration 0", "iteration 1", "sft"):
        assert stage in table
    assert f"{best.replace('-', ' ')} *" in table
    assert sum(" *" in line for line in table.splitlines() if "│" in line) == 1
    assert (played / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_prints_a_table_that_grows(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After iteration 0 the table ends there; after iteration 1 it has another row. Each phase prints a summary."""
    build(llama_folder).run()
    printed = capsys.readouterr().out
    tables = ["\n".join(line for line in text.splitlines() if "│" in line) for text in printed.split("┏")[1:]]
    assert ["iteration 0" in table for table in tables] == [True, True]
    assert ["iteration 1" in table for table in tables] == [False, True]
    for phase in ("start: evaluate", "iteration-0: generate", "iteration-0: train", "iteration-1: evaluate"):
        assert phase in printed
    assert "loss 0.6931 -> " in printed


# ---- resuming -------------------------------------------------------------------------------------------------------


def test_the_same_command_again_does_nothing(played: Path, llama_folder: Path) -> None:
    """All phases count as finished: nothing changes except the drawings, and no model is loaded."""
    before = contents(played, ignore=("plot.png", "table.txt", ".lock"))
    stamps = {path: path.stat().st_mtime_ns for path in played.rglob("*.safetensors")}
    result = build(llama_folder, played, **PLAYED).run()
    assert contents(played, ignore=("plot.png", "table.txt", ".lock")) == before
    assert {path: path.stat().st_mtime_ns for path in played.rglob("*.safetensors")} == stamps
    assert result.best_stage == json.loads((played / "best.json").read_text(encoding="utf-8"))["stage"]
    assert list(result.figures) == [
        "start",
        "iteration-0",
        "iteration-1",
        "baseline/sft/iteration-0",
        "baseline/sft/iteration-1",
    ]


def test_more_iterations_continue_the_run(llama_folder: Path) -> None:
    """`num_iterations` may be raised: existing iterations are kept, and new ones equal those of a single long run."""
    build(llama_folder, "long", num_iterations=3).run()
    build(llama_folder, "short", num_iterations=2).run()
    first = weights("short/iteration-0/model"), weights("short/iteration-1/model")
    result = build(llama_folder, "short", num_iterations=3).run()
    assert (weights("short/iteration-0/model"), weights("short/iteration-1/model")) == first
    assert weights("short/iteration-2/model") == weights("long/iteration-2/model")
    assert list(result.figures) == ["start", "iteration-0", "iteration-1", "iteration-2"]
    assert steps("short") == steps("long")


def test_two_runs_of_the_same_settings_are_the_same(llama_folder: Path) -> None:
    """Generations and weights are equal bit for bit; another seed gives others."""
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        build(llama_folder, name, seed=seed, num_iterations=1).run()
    assert answers("one", "iteration-0") == answers("two", "iteration-0") != answers("three", "iteration-0")
    assert weights("one/iteration-0/model") == weights("two/iteration-0/model") != weights("three/iteration-0/model")


# ---- settings of an iteration ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_lists_give_each_iteration_its_own_value(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each iteration is trained with its own learning rate, beta and epochs, and generated with its own temperature."""
    from spin_trl.play import train

    seen: list[dict[str, float]] = []
    original = train.SPINTrainer

    def spy(*args: Any, **kwargs: Any) -> Any:
        settings = kwargs["args"]
        trainer = original(*args, **kwargs)
        seen.append(
            {
                "learning_rate": settings.learning_rate,
                "beta": trainer.beta,
                "num_train_epochs": settings.num_train_epochs,
                "seed": settings.seed,
            }
        )
        return trainer

    monkeypatch.setattr(train, "SPINTrainer", spy)
    lists = {
        "learning_rate": [2e-2, 1e-2],
        "beta": [0.1, 5.0],
        "num_train_epochs": [1, 2],
        "temperature": [1.0, 0.0],
    }
    build(llama_folder, per_iteration=lists).run()
    assert seen == [
        {"learning_rate": 2e-2, "beta": 0.1, "num_train_epochs": 1, "seed": 42},
        {"learning_rate": 1e-2, "beta": 5.0, "num_train_epochs": 2, "seed": 43},
    ]
    assert [entry("train", f"iteration-{t}")["steps"] for t in (0, 1)] == [3, 6]
    manifests = [
        json.loads(Path(f"run/iteration-{t}/generations/generations.json").read_text(encoding="utf-8")) for t in (0, 1)
    ]
    assert [manifest["sampling"]["temperature"] for manifest in manifests] == [1.0, 0.0]
    assert [manifest["iteration"] for manifest in manifests] == [0, 1]


@pytest.mark.slow
def test_a_longer_run_needs_longer_lists_with_the_same_beginning(llama_folder: Path) -> None:
    """Values of finished iterations can't be changed; values for later ones can be added."""
    build(llama_folder, per_iteration={"learning_rate": [1e-2]}, num_iterations=1).run()
    with refused(RunDirectoryError, "per_iteration:", "`run_dir`"):
        build(llama_folder, per_iteration={"learning_rate": [2e-2, 1e-3]}, num_iterations=2).run()
    build(llama_folder, per_iteration={"learning_rate": [1e-2, 1e-3]}, num_iterations=2).run()
    assert ("train", "iteration-1") in steps()


@pytest.mark.parametrize(("history", "pairs"), [(1, [12, 24, 24]), (5, [12, 24, 36])])
def test_history_mixes_earlier_iterations_in(history: int, pairs: list[int], llama_folder: Path) -> None:
    """Iteration 0 has one pair per prompt; later ones have one more for each earlier iteration up to `history` (of
    θ_{t-1}, ...).
    """
    build(llama_folder, history=history, num_iterations=3).run()
    assert [entry("train", f"iteration-{t}")["pairs"]["total"] for t in range(3)] == pairs
    assert [entry("train", f"iteration-{t}")["steps"] for t in range(3)] == [count // 4 for count in pairs]
    for t in range(3):
        assert entry("train", f"iteration-{t}")["first"]["loss"] == pytest.approx(LN2, abs=1e-5)


def test_several_answers_a_prompt(llama_folder: Path) -> None:
    """`num_generations: 2` doubles the pairs to train on; a held-out prompt is answered once."""
    build(llama_folder, num_generations=2, num_iterations=1).run()
    assert entry("train", "iteration-0")["pairs"]["total"] == 24
    assert len(answers("run", "iteration-0")) == 24
    assert len(answers("run", "iteration-0", "held-out/sampled")) == 3


# ---- scorers and held-out data ---------------------------------------------------------------------------------------


def test_a_scorer_is_called_with_texts(llama_folder: Path) -> None:
    """It gets prompt, human response and generated response, decoded, for every held-out prompt and every model."""
    calls: list[tuple[str, str, str]] = []

    def scorer(prompt: str, real: str, generated: str) -> float:
        calls.append((prompt, real, generated))
        return shout(prompt, real, generated)

    build(llama_folder, scorer=scorer, evaluate_greedy=True, num_iterations=1).run()
    given = {row["prompt"]: row["completion"] for row in tiny.sft(15)}
    assert len(calls) == 3 * 2 * 2  # prompts, decodings, models
    assert all(given[prompt] == real for prompt, real, _ in calls)
    sampled = {
        line["generated"]
        for line in map(json.loads, Path("run/start/samples.jsonl").read_text(encoding="utf-8").splitlines())
    }
    assert sampled <= {generated for _, _, generated in calls}
    figures = json.loads(Path("run/iteration-0/metrics.json").read_text(encoding="utf-8"))
    scored = [shout(*call) for call in calls]
    means = [sum(scored[first : first + 3]) / 3 for first in (6, 9)]  # sampled answers, then greedy ones
    assert {round(figures["score"], 9), round(figures["score_greedy"], 9)} == {round(mean, 9) for mean in means}


def test_held_out_data_may_be_given(llama_folder: Path) -> None:
    """All other rows are trained on, and the held-out rows are those given, at most `held_out_max`."""
    given = tiny.sft(20).select(range(15, 20))
    build(llama_folder, eval_dataset=given, held_out_max=4, num_iterations=1).run()
    assert len(load_from_disk("run/data/train")) == 15
    assert load_from_disk("run/data/held-out")["prompt"][:] == given["prompt"][:4]


def test_prompts_on_both_sides_are_counted_and_named(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two held-out prompts are in the training data, whose rows are removed; journal, log and report mention it."""
    rows = tiny.sft(20)
    shouted = [{**row, "prompt": row["prompt"].upper()} for row in rows.select(range(13, 18))]
    session = build(llama_folder, train_dataset=rows.select(range(15)), eval_dataset=Dataset.from_list(shouted))
    prepare_data(session.state, session.train_dataset, session.eval_dataset)
    assert load_from_disk("run/data/train")["prompt"][:] == rows["prompt"][:13]
    assert len(load_from_disk("run/data/held-out")) == 5
    remark = entry("prepare", "data")["remarks"][0]
    assert names(remark, "2 rows", "training data", "`held_out_overlap: drop_train`")
    assert remark in caplog.messages
    Path("run/recipe.yaml").write_text("{}", encoding="utf-8")
    assert remark.partition("`")[0] in write_report(RunDirectory("run")).read_text(encoding="utf-8")


def test_a_run_whose_rows_have_one_prompt_says_that_nothing_is_held_out(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning comes before anything runs: a column may be missing from the prompts."""
    rows = Dataset.from_list([{"prompt": "Sort these words. ", "completion": f" Answer {i}."} for i in range(9)])
    session = build(llama_folder, train_dataset=rows)
    prepare_data(session.state, session.train_dataset, None)
    remark = entry("prepare", "data")["remarks"][0]
    assert names(remark, "1 distinct prompt", "`held_out_name`")
    assert remark in caplog.messages


@pytest.mark.slow
def test_a_run_without_held_out_prompts_delivers_the_newest(llama_folder: Path) -> None:
    """With `held_out_fraction: 0`, there is nothing to choose by."""
    result = build(llama_folder, held_out_fraction=0).run()
    assert result.best_stage == "iteration-1"
    assert len(load_from_disk("run/data/train")) == 15
    assert Path("run/best").resolve() == Path("run/iteration-1/model").resolve()


# ---- smoke -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_smoke_plays_two_iterations_on_eight_rows(llama_folder: Path) -> None:
    """This holds for any data; lists are shortened to fit."""
    build(llama_folder, smoke=True, num_iterations=3, per_iteration={"learning_rate": [1e-2, 1e-3, 1e-4]}).run()
    prepared = entry("prepare", "data")
    assert prepared["train_rows"] + prepared["held_out_rows"] == 8
    assert prepared["held_out_rows"] >= 1
    assert [stage for phase, stage in steps() if phase == "train"] == ["iteration-0", "iteration-1"]


# ---- the directory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-3},
        {"loss_type": "space"},
        {"max_length": 48},
        {"temperature": 0.5},
        {"held_out_fraction": 0.3},
        {"history": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_directory_of_another_recipe_is_refused(change: dict[str, Any], played: Path, llama_folder: Path) -> None:
    """The message names the setting, both values, and what to do; nothing is changed."""
    before = contents(played)
    (name, value) = next(iter(change.items()))
    with pytest.raises(RunDirectoryError) as failure:
        build(llama_folder, played, **{**PLAYED, **change}).run()
    message, settings = str(failure.value), yaml.safe_load((played / "recipe.yaml").read_text(encoding="utf-8"))
    assert [key for key in {**settings, **change} if names(message, f"{key}:")] == [name]
    assert names(message, repr(value), "`run_dir`", "`existing_run: overwrite`")
    assert contents(played) == before


@pytest.mark.slow
def test_a_torn_journal_line_is_as_if_it_had_not_been_written(llama_folder: Path) -> None:
    """The machine crashed while the last line was written, so that phase is run again, with the same result."""
    build(llama_folder, num_iterations=1).run()
    whole, final = Path("run/journal.jsonl").read_bytes(), weights("run/iteration-0/model")
    lines = whole.splitlines(keepends=True)
    trained = next(i for i, line in enumerate(lines) if b'"train"' in line)
    Path("run/journal.jsonl").write_bytes(b"".join(lines[:trained]) + lines[trained][:40])
    build(llama_folder, num_iterations=1).run()
    assert weights("run/iteration-0/model") == final
    assert steps() == [(json.loads(line)["phase"], json.loads(line)["stage"]) for line in lines]


# ---- what a run can't start with -------------------------------------------------------------------------------------


def test_data_that_can_not_be_played_is_refused_at_once() -> None:
    """Missing data, ready-made pairs, a stream and other columns are reported in the constructor, before a model is
    loaded.
    """
    rows = tiny.sft(2)
    for dataset, parts in (
        (None, ("`train_dataset`", "required")),
        (tiny.preference(2), ("['prompt', 'chosen', 'rejected']", "SPINTrainer")),
        (
            IterableDataset.from_generator(rows.__iter__, features=rows.features),
            ("`train_dataset`", "IterableDataset", "stream"),
        ),
        (tiny.sft(2, "question-answer"), ("['question', 'answer']", "{question: prompt, answer: completion}")),
    ):
        with refused(DataError, *parts):
            build("no/such-model", train_dataset=dataset)


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_a_whole_run_under_a_training_plugin_is_refused(
    variable: str, name: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generation needs full replicas; the message names the option that launches each phase correctly."""
    run = build(llama_folder)
    monkeypatch.setenv(variable, "true")
    with refused(LaunchError, name, "--accelerate_config"):
        run.run()
    assert not os.path.exists("run")


def test_a_run_that_launches_its_phases_is_refused_to_a_launcher(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process of the launcher would launch all of them; the message names both ways out."""
    run = build(llama_folder, accelerate_config="ddp", launch=by_accelerate)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused(LaunchError, "`accelerate_config: ddp`", "`--accelerate_config ''`"):
        run.run()
    assert not os.path.exists("run")


def test_unusual_settings_are_warned_of_in_python_too(llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Warnings come at once, and again when the rows have been counted: here, a warm-up longer than the training on
    twelve rows.
    """
    run = build(llama_folder, learning_rate=0.5, warmup_steps=50, lr_scheduler_type="linear")
    logged(caplog, "`learning_rate`", 0.5)
    assert not any(names(message, "`warmup_steps`") for message in caplog.messages)
    run.run_phase("start", 0)
    logged(caplog, "`warmup_steps`", 50, "3 steps", "12 rows")


def test_settings_are_checked_where_they_are_made() -> None:
    """A list of the wrong length and a metric without a scorer are refused when the configuration is created, not an
    hour later.
    """
    with refused(RecipeError, "`learning_rate`", "3 values", "2 iterations"):
        SelfPlayConfig(num_iterations=2, per_iteration={"learning_rate": [1, 2, 3]})
    with refused(RecipeError, "`metric_for_best_iteration`", "'score'", "`scorer`"):
        SelfPlayConfig(metric_for_best_iteration="score")
    with refused(RecipeError, "`temperature`", -1):
        SPINConfig("out", use_cpu=True, bf16=False, temperature=-1)
    with refused(RecipeError, "'no_such_module:score'", "'no_such_module'"):
        SelfPlay(
            "m",
            SPINConfig("out", use_cpu=True, bf16=False),
            SelfPlayConfig(scorer="no_such_module:score"),
            train_dataset=tiny.sft(2),
        )


@pytest.mark.slow
def test_the_report_is_made_anew_after_every_iteration(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """During the run it shows the iterations so far, and at the end all of them."""
    pages: list[str] = []
    original = loop.show

    def show(*args: Any) -> None:
        original(*args)
        pages.append(Path("run/report.html").read_text(encoding="utf-8"))

    monkeypatch.setattr(loop, "show", show)
    build(llama_folder, num_iterations=2, baseline="sft").run()
    assert len(pages) == 2
    for t, page in enumerate(pages):
        assert f"plain SFT, iteration {t}" in page
        assert ("So far, " in page) == (t == 0)
        assert ("iteration 1" in page) == (t == 1)


@pytest.mark.slow
def test_a_report_that_fails_does_not_end_the_run(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("spin_trl.play.console.write_report", lambda *_: 1 / 0)
    result = build(llama_folder, num_iterations=1).run()
    assert Path(result.best_model).is_dir()
    assert any(names(message, "report.html", "ZeroDivisionError") for message in caplog.messages)
