"""In a comparison of objectives, all arms have the same start and number of steps, and appear in one table."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import runs
import tiny
from messages import names, refused
from spin_trl.cli import main
from spin_trl.errors import DivergedError, LaunchError, RecipeError, RunDirectoryError
from spin_trl.play.comparison.arms import Arm, Launches, share_start
from spin_trl.play.comparison.compare import Comparison
from spin_trl.play.comparison.compare_rows import figures_of_arm
from spin_trl.report.record import read_record
from spin_trl.run.compute import Compute
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import Journal, Step
from spin_trl.run.recipe import read_recipe
from spin_trl.run.stage import Stage

pytestmark = pytest.mark.drawn

ARMS = ("sigmoid", "iris", "tspin+0.1*sft", "sft", "sft-smoothing-0.1")
OPTIONS = ("--arms", *ARMS, "--seeds", "2", "--devices", "2", "--arm_settings", '{"iris": {"learning_rate": 1e-3}}')


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """Return the folder of a comparison with two seeds, played by the command, two arms at a time."""
    folder = tmp_path_factory.mktemp("compared")
    # Settings of several objectives, of which each arm uses its own.
    own = {"tspin_alpha": 0.5, "iris_schedule": "geometric", "beta": [0.2, 0.4], "loss_type": "space", "space_mu": 2.0}
    recipe = runs.recipe(folder, llama_folder, **own)
    assert main(["compare", str(recipe), *OPTIONS]) == 0
    return folder / "run"


def arm(folder: Path, name: str, seed: int = 42) -> Path:
    return folder / f"seed-{seed}" / name


@pytest.mark.slow
def test_all_arms_share_what_the_start_generated(compared: Path) -> None:
    """θ_0's answers to training and held-out prompts, and the data, are produced once and are the same files."""
    for seed in (42, 1042):
        folders = [arm(compared, name, seed) for name in ("sigmoid", "iris", "tspin+0.1xsft")]
        answers = [runs.answers(folder, "iteration-0") for folder in folders]
        assert answers[0] == answers[1] == answers[2]
        shards = [sorted((folder / "iteration-0/generations").glob("*.parquet"))[0] for folder in folders]
        assert len({shard.stat().st_ino for shard in shards}) == 1
        assert runs.answers(folders[1], "iteration-1") != runs.answers(folders[0], "iteration-1")
    assert runs.answers(arm(compared, "iris"), "iteration-0") != runs.answers(
        arm(compared, "iris", 1042), "iteration-0"
    )


@pytest.mark.slow
def test_every_arm_has_its_own_settings_and_no_other(compared: Path) -> None:
    objectives = {name: runs.entry("train", "iteration-1", arm(compared, name)) for name in ("sigmoid", "iris")}
    assert objectives["sigmoid"]["objective"] == {"beta": 0.4}
    assert objectives["iris"]["objective"]["iris_alpha"] == pytest.approx(0.8)
    assert "beta" not in objectives["iris"]["objective"]
    last = runs.entry("train", "iteration-1", arm(compared, "tspin+0.1xsft"))
    assert last["objective"] == {"tspin_alpha": 0.5, "tspin_beta": 0.1}
    recipe = read_recipe(str(arm(compared, "iris") / "recipe.yaml"))
    assert (recipe.args.losses, recipe.args.learning_rate) == (["iris"], 1e-3)
    assert read_recipe(str(arm(compared, "sigmoid") / "recipe.yaml")).args.learning_rate == 2e-2
    tspin = read_recipe(str(arm(compared, "tspin+0.1xsft") / "recipe.yaml"))
    assert (tspin.args.losses, tspin.args.loss_weights) == (["tspin", "sft"], [1.0, 0.1])


@pytest.mark.slow
def test_every_arm_takes_as_many_gradient_steps(compared: Path) -> None:
    found = json.loads((compared / "comparison.json").read_text(encoding="utf-8"))
    assert found["arms"] == list(ARMS)
    assert found["seeds"] == [42, 1042]
    steps = {name: [found["figures"][name][t]["steps"] for t in ("0", "1")] for name in ARMS}
    assert set(map(tuple, steps.values())) == {(3.0, 3.0)}


@pytest.mark.slow
def test_the_table_has_means_over_the_seeds(compared: Path) -> None:
    """The means are computed again from the measurements of the runs."""
    found = json.loads((compared / "comparison.json").read_text(encoding="utf-8"))["figures"]
    for name, where in (("iris", "iteration-1"), ("sft", "baseline/sft/iteration-1")):
        owner = "iris" if name == "iris" else "sigmoid"
        files = [arm(compared, owner, seed) / where / "metrics.json" for seed in (42, 1042)]
        one, two = (json.loads(file.read_text(encoding="utf-8"))["nll"] for file in files)
        assert found[name]["1"]["nll"] == pytest.approx((one + two) / 2)
        assert found[name]["1"]["nll_se"] == pytest.approx(abs(one - two) / 2)
    made = sum(
        len(ids) for seed in (42, 1042) for ids in runs.answers(arm(compared, "iris", seed), "iteration-1").values()
    )
    assert found["iris"]["1"]["generated_tokens"] == pytest.approx(made / 2)
    assert found["sft"]["1"]["generated_tokens"] == 0
    assert found["iris"]["1"]["seconds"] > 0
    table = (compared / "table.txt").read_text(encoding="utf-8")
    assert "over 2 seeds" in table
    for row in ("start", "sigmoid 1", "iris 0", "tspin+0.1*sft 1", "sft 1", "sft smoothing 0.1 1"):
        assert row in table, table
    assert "…" not in table
    assert "minus sft [95 %]" in table
    assert (compared / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_arm_is_held_against_the_supervised_one(compared: Path) -> None:
    """It is compared prompt by prompt for each seed; over two seeds, with Student's interval for one degree of freedom
    (t = 12.7062).
    """
    found = json.loads((compared / "comparison.json").read_text(encoding="utf-8"))["figures"]
    for name in ("sigmoid", "iris", "tspin+0.1*sft"):
        for t in ("0", "1"):
            places = ((name.replace("*", "x"), f"iteration-{t}"), ("sigmoid", f"baseline/sft/iteration-{t}"))
            nlls = [
                json.loads((arm(compared, owner, seed) / stage / "metrics.json").read_text(encoding="utf-8"))["nll"]
                for seed in (42, 1042)
                for owner, stage in places
            ]
            one, two = nlls[0] - nlls[1], nlls[2] - nlls[3]
            figures = found[name][t]
            assert figures["nll_vs_baseline"] == pytest.approx((one + two) / 2)
            spread = 12.7062 * abs(one - two) / 2
            assert figures["nll_vs_baseline_low"] == pytest.approx((one + two) / 2 - spread, rel=1e-4)
            assert figures["nll_vs_baseline_high"] == pytest.approx((one + two) / 2 + spread, rel=1e-4)
    assert "nll_vs_baseline" not in found["sft"]["1"]
    lines = [line for line in (compared / "table.txt").read_text(encoding="utf-8").splitlines() if "iris 1" in line]
    difference = found["iris"]["1"]["nll_vs_baseline"]
    assert f"{difference:+.3f} [" in lines[0]


@pytest.mark.slow
def test_the_same_command_plays_nothing_again(compared: Path, llama_folder: Path, capfd: Any) -> None:
    before = runs.contents(compared, ignore=("plot.png",))
    recipe = compared.parent / "small.yaml"
    assert main(["compare", str(recipe), *OPTIONS]) == 0
    assert runs.contents(compared, ignore=("plot.png",)) == before
    assert "seed 42: iris ..." not in capfd.readouterr().out
    assert main(["compare", str(recipe), *OPTIONS[:-1], '{"iris": {"learning_rate": 2e-3}}']) == 2
    assert names(capfd.readouterr().err, "learning_rate:", 0.001, 0.002)


@pytest.mark.parametrize(
    ("arms", "more", "parts"),
    [
        (["sft"], {}, ("self-play", "`sft`")),
        (["space"], {"seeds": 0}, ("`--seeds`", 1)),
        (["space+x*sft"], {}, ("'space+x*sft'", "'x'")),
        (["spaec"], {}, ("`loss_type`", "'spaec'", "'space'")),
        (["space"], {"arm_settings": {"iris": {}}}, ("`--arm_settings`", "'iris'", "space")),
        (
            ["space"],
            {"arm_settings": {"space": {"num_train_epochs": 3}}},
            ("`--arm_settings`", "'space'", "'num_train_epochs'"),
        ),
        (
            ["space"],
            {"arm_settings": {"space": {"temperature": 0.7}}},
            ("`--arm_settings`", "'space'", "'temperature'"),
        ),
        (["space"], {"arm_settings": {"space": {"beta": 5.0}}}, ("`--arm_settings`", "'space'", "'beta'")),
        (
            ["space", "sft"],
            {"arm_settings": {"space": {"optim": "sgd"}}},
            ("`--arm_settings`", "'space'", "'optim'", "sft"),
        ),
        (["space"], {"overrides": ["--identical_generations", "drop"]}, ("`identical_generations: drop`",)),
        (
            ["space"],
            {"overrides": ["--engine", "server", "--server_urls", "http://127.0.0.1:9"]},
            ("`engine: server`", "`server_reload: lora`"),
        ),
        (["start > dpo"], {"overrides": ["--dpo_name", "p.jsonl"]}, ("self-play",)),
        (["space > dpo"], {}, ("'space > dpo'", "`dpo_name`")),
        (
            ["space", "sft > spin > dpo"],
            {"overrides": ["--dpo_name", "p.jsonl"]},
            ("'sft > spin > dpo'", "`start: sft`", "'sigmoid > dpo'"),
        ),
        (
            ["space", "sft>dpo"],
            {"overrides": ["--dpo_name", "p.jsonl"]},
            ("'sft>dpo'", "`start: sft`", "'start > dpo'"),
        ),
        (
            ["space > dpo", "iris > dpo"],
            {
                "overrides": ["--dpo_name", "p.jsonl"],
                "arm_settings": {"iris": {"learning_rate": 1e-3, "optim": "sgd"}},
            },
            ("`--arm_settings`", "'iris'", "'optim'", "`dpo_optim`"),
        ),
    ],
    ids=[
        "no self-play arm",
        "no seed",
        "number of an arm",
        "unknown loss",
        "settings of no arm",
        "epochs of its own",
        "temperature of its own",
        "beta of its own",
        "optimiser of the first arm",
        "dropped generations",
        "servers that pause",
        "DPO without self-play alone",
        "DPO without pairs",
        "a chain with SFT first",
        "DPO on SFT first",
        "optimiser of one DPO",
    ],
)
def test_what_can_not_be_compared_is_refused(
    arms: list[str], more: dict[str, Any], parts: tuple[object, ...], tmp_path: Path, llama_folder: Path
) -> None:
    recipe = runs.recipe(tmp_path / "r", llama_folder)
    with refused(RecipeError, *parts):
        Comparison(str(recipe), more.pop("overrides", []), arms, **more)
    assert not (tmp_path / "r/run").exists()


@pytest.mark.slow
def test_an_arm_that_fails_does_not_take_the_others_with_it(tmp_path: Path, llama_folder: Path) -> None:
    recipe = runs.recipe(tmp_path / "r", llama_folder, num_iterations=1)
    comparison = Comparison(str(recipe), [], ["sigmoid", "space", "spif"], devices=2)
    launch = comparison._launches.run

    def fail(arguments: list[str], *others: Any) -> Any:
        is_broken = Path(arguments[1]).name == "space"
        return launch(["run", str(tmp_path / "no such run")] if is_broken else arguments, *others)

    comparison._launches.run = fail
    with refused(LaunchError, "space/output.txt"):
        comparison.run()
    figures = json.loads((tmp_path / "r/run/comparison.json").read_text(encoding="utf-8"))["figures"]
    assert {"start", "sigmoid", "spif"} <= set(figures)
    assert "space" not in figures


@pytest.mark.slow
def test_a_run_that_has_begun_is_not_given_another_start(compared: Path, tmp_path: Path) -> None:
    target = RunDirectory(tmp_path / "target")
    target.path.mkdir()
    target.journal.write_text("", encoding="utf-8")
    share_start(RunDirectory(arm(compared, "sigmoid")), target)
    assert [path.name for path in target.path.iterdir()] == ["journal.jsonl"]


@pytest.mark.slow
def test_files_are_copied_where_they_can_not_be_linked(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    source, target = RunDirectory(arm(compared, "sigmoid")), RunDirectory(tmp_path / "target")
    share_start(source, target)
    assert runs.answers(target.path, "iteration-0") == runs.answers(source.path, "iteration-0")
    assert [phase for phase, _ in runs.steps(target.path)] == ["prepare", "evaluate", "generate"]


def test_the_losses_of_an_arm_take_their_settings_from_recipe_and_command_line(llama_folder: Path) -> None:
    recipe = runs.recipe(Path("r"), llama_folder, loss_type="tspin", tspin_beta=0.3, beta=0.5)
    overrides = ["--iris_alpha", "0.6", "2.0", "--spif_reward_scale", "0.2", "--learning_rate", "1e-3"]
    spif = read_recipe(str(recipe), overrides, losses={"spif": 1.0})
    assert (spif.args.spif_reward_scale, spif.args.iris_alpha, spif.args.beta) == (0.2, None, 0.1)
    iris = read_recipe(str(recipe), overrides, losses={"iris": 1.0, "sigmoid": 2.0})
    assert (iris.args.iris_alpha, iris.args.beta, iris.args.loss_weights) == ([0.6, 2.0], 0.5, [1.0, 2.0])
    assert iris.args.learning_rate == spif.args.learning_rate == 1e-3
    with refused(RecipeError, "`spif_reward_scale`", "'tspin'", "`loss_type`"):
        read_recipe(str(recipe), overrides[3:])


def test_the_start_is_mixed_into_the_opponent_of_arms_that_have_one(llama_folder: Path) -> None:
    recipe = runs.recipe(Path("r"), llama_folder, opponent_mix=0.3)
    found = [
        read_recipe(str(recipe), [], losses={loss: 1.0}).args.opponent_mix for loss in ("sigmoid", "iris", "tspin")
    ]
    assert found == [0.3, 0.3, 0.0]
    overrides = ["--opponent_mix", "0.4"]
    found = [read_recipe(str(recipe), overrides, losses={loss: 1.0}).args.opponent_mix for loss in ("space", "simpo")]
    assert found == [0.4, 0.0]


@pytest.mark.slow
def test_a_comparison_of_another_recipe_is_refused(compared: Path, llama_folder: Path, tmp_path: Path) -> None:
    recipe = runs.recipe(tmp_path / "r", llama_folder, run_dir=str(compared), learning_rate=3e-2)
    with refused(RunDirectoryError, "learning_rate:", 0.02, 0.03, "`run_dir`"):
        Comparison(str(recipe), [], list(ARMS)).run()


def is_player(process: psutil.Process, folder: str) -> bool:
    """Return whether a process is playing the run in a folder."""
    try:
        return folder in process.cmdline()
    except psutil.Error:
        return False


@pytest.mark.slow
def test_a_comparison_that_is_told_to_stop_ends_its_arms(tmp_path: Path, llama_folder: Path) -> None:
    """It is stopped as by a scheduler; none of its processes is left running."""
    recipe = runs.recipe(tmp_path / "r", llama_folder, num_iterations=1)
    command = [sys.executable, "-m", "spin_trl", "compare", str(recipe), "--arms", "sigmoid", "space"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    ) as comparison:
        folder, players = str(arm(tmp_path / "r/run", "sigmoid")), []
        deadline = time.monotonic() + 120
        # Imports start processes of their own, and a new process is at first a copy of its parent.
        while not players and time.monotonic() < deadline:
            players = [child for child in psutil.Process(comparison.pid).children() if is_player(child, folder)]
            time.sleep(0.1)
        (player,) = players
        comparison.terminate()
        assert comparison.wait(120) == 130
        assert comparison.stderr is not None
        assert names(comparison.stderr.read(), "Interrupted")
    assert not psutil.pid_exists(player.pid)
    assert not arm(tmp_path / "r/run", "space").joinpath("output.txt").exists()


@pytest.mark.slow
def test_more_iterations_continue_a_comparison_and_new_arms_join_it(tmp_path: Path, llama_folder: Path) -> None:
    """No finished work is repeated: the start is taken from an arm that has it, and the baseline is added."""
    recipe = runs.recipe(tmp_path / "r", llama_folder, num_iterations=1)
    folder = tmp_path / "r/run"
    Comparison(str(recipe), [], ["sigmoid"]).run()
    before = runs.journal(arm(folder, "sigmoid"))
    Comparison(str(recipe), ["--num_iterations", "2"], ["space", "sigmoid", "sft"]).run()
    assert runs.journal(arm(folder, "sigmoid"))[: len(before)] == before
    assert runs.answers(arm(folder, "space"), "iteration-0") == runs.answers(arm(folder, "sigmoid"), "iteration-0")
    figures = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["figures"]
    assert {name: sorted(found) for name, found in figures.items()} == {
        "start": ["-1"],
        "space": ["0", "1"],
        "sigmoid": ["0", "1"],
        "sft": ["0", "1"],
    }


def test_an_arm_may_step_in_its_own_way(tmp_path: Path, llama_folder: Path) -> None:
    """This includes lists. The supervised arms keep the learning rate given for all arms."""
    recipe = runs.recipe(tmp_path / "r", llama_folder, learning_rate=[1e-3, 2e-3])
    own = {
        "sigmoid": {"learning_rate": 5e-4, "beta": 0.3},
        "iris": {"iris_schedule": "fixed", "iris_alpha": [2.5, 1.8], "learning_rate": [3e-3, 4e-3]},
    }
    comparison = Comparison(str(recipe), ["--learning_rate", "1e-2"], ["sigmoid", "iris", "sft"], arm_settings=own)
    sigmoid, iris = (comparison.recipes[name, 42] for name in ("sigmoid", "iris"))
    assert (sigmoid.args.learning_rate, sigmoid.args.beta) == (5e-4, 0.3)
    assert sigmoid.play.baseline_learning_rate == 1e-2
    assert iris.play.per_iteration == {"learning_rate": [3e-3, 4e-3]}
    assert (iris.args.iris_schedule, iris.args.iris_alpha) == ("fixed", [2.5, 1.8])
    assert Arm.parse("sft-smoothing-0.10").name == "sft-smoothing-0.1"
    assert [one.name for one in Comparison(str(recipe), [], ["space", "sft", "sft-smoothing-0"]).supervised] == ["sft"]


def test_supervised_arms_are_the_baselines_of_the_first_run(tmp_path: Path, llama_folder: Path) -> None:
    """The arm from the base comes last, since it can't be compared with the others at every iteration."""
    recipe = runs.recipe(tmp_path / "r", llama_folder, start="sft")
    arms = ["sft-best", "space", "iris", "sft-dft", "sft"]
    found = Comparison(str(recipe), ["--baseline_equal", "compute"], arms)
    assert [one.name for one in found.supervised] == ["sft-dft", "sft", "sft-best"]
    space, iris = (found.recipes[name, 42].play for name in ("space", "iris"))
    assert (space.baseline, space.baseline_equal) == (["sft", "sft-dft", "sft-best"], "compute")
    assert iris.baseline is None
    with refused(RecipeError, "`baseline: sft-best`", "`start: sft`"):
        Comparison(str(recipe), ["--start", "given"], ["space", "sft-best"])


@pytest.mark.slow
def test_a_comparison_with_dpo_on_top(tmp_path: Path, llama_folder: Path) -> None:
    """DPO on SFT first, and on self-play after SFT first: on the same pairs, with the same settings, for as many steps. Both
    have a row of figures, costs and test figures, and the second is compared with the first prompt by prompt. Of 24 pairs,
    three have held-out prompts, and four test prompts."""
    pairs = tiny.write_jsonl(tmp_path / "pairs.jsonl", tiny.preference(24))
    test = tiny.write_jsonl(tmp_path / "test.jsonl", tiny.sft(runs.ROWS + 4).select(range(runs.ROWS, runs.ROWS + 4)))
    known = {"dpo_name": str(pairs), "dpo_learning_rate": 1e-2, "dpo_num_train_epochs": 1, "test_name": str(test)}
    first = {"start": "sft", "sft_learning_rate": 1e-2, "sft_num_train_epochs": 1}
    recipe = runs.recipe(tmp_path / "r", llama_folder, num_iterations=1, **known, **first)
    arms = ["sigmoid", "iris", "sft", "sft > dpo", "sft > spin > dpo", "sft>iris>dpo"]
    assert main(["compare", str(recipe), "--arms", *arms, "--equal", "compute"]) == 0
    folder = tmp_path / "r/run"
    found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    dpo = ["sft > dpo", "sft > sigmoid > dpo", "sft > iris > dpo"]
    assert found["arms"] == ["sigmoid", "iris", "sft", *dpo]
    figures, text = found["figures"], (folder / "table.txt").read_text(encoding="utf-8")
    played = {}
    for name, player in zip(dpo, ("sigmoid", "sigmoid", "iris"), strict=True):
        (trained,) = found["dpo"][name]
        directory, stage = arm(folder, player), trained["stage"]
        entry = runs.entry("train", stage, directory)
        assert (entry["preferences"], entry["steps"]) == (trained["pairs"], trained["steps"]) == (17, 5)
        recorded = read_record(RunDirectory(directory))
        best = min(recorded.self_play, key=lambda one: one.figures["nll"]).name
        assert stage == f"dpo/{'start' if name == dpo[0] else best}"
        (iteration,) = figures[name]
        row = figures[name][iteration]
        measured = json.loads((directory / stage / "metrics.json").read_text(encoding="utf-8"))
        assert (iteration, row["nll"], row["steps"]) == ("1", measured["nll"], 5)
        on_test = json.loads((directory / stage / "test/metrics.json").read_text(encoding="utf-8"))
        assert (found["test"][name]["nll"], found["test"][name]["prompts"]) == (on_test["nll"], 4)
        chain = ("start", "iteration-0")[: 1 + (stage == "dpo/iteration-0")]
        before = [one["compute"] for one in runs.journal(directory) if one["stage"] in chain and one.get("compute")]
        own = [Compute(**one).total for one in (*before, entry["compute"])]
        assert row["compute_so_far"] == sum(own) > sum(own[:-1]) > 0
        played[name] = (runs.contents(directory / "data/dpo"), read_recipe(str(directory / "recipe.yaml")))
        assert f"{row['nll']:.3f}" in next(line for line in text.splitlines() if line.startswith(f"│ {name} "))
    rows, recipes = zip(*played.values(), strict=True)
    assert rows[0] == rows[1] == rows[2]
    assert recipes[0].play.dpo_args == recipes[2].play.dpo_args == {"learning_rate": 1e-2, "num_train_epochs": 1}
    for name in dpo[1:]:
        difference = figures[name]["1"]["nll_vs_dpo"]
        assert difference == pytest.approx(figures[name]["1"]["nll"] - figures[dpo[0]]["1"]["nll"], abs=1e-6)
        assert found["test"][name]["nll_vs_dpo"] == pytest.approx(
            found["test"][name]["nll"] - found["test"][dpo[0]]["nll"], abs=1e-6
        )
    assert "nll_vs_dpo" not in figures["sigmoid"]["0"]
    assert "nll_vs_baseline" not in figures[dpo[1]]["1"]
    assert found["test"].keys() == {"start", *found["arms"]}
    assert "nll_vs_baseline" in found["test"]["iris"]
    assert "minus sft > dpo [95 %]" in text
    said = [line for line in found["remarks"] if any(name in line for name in dpo)]
    assert names(said[0], *dpo, "17 preference pairs", "5 gradient steps")
    assert all(" ".join(remark.split()) in " ".join(text.split()) for remark in found["remarks"])
    before = runs.contents(folder, ignore=("plot.png",))
    assert main(["compare", str(recipe), "--arms", *arms, "--equal", "compute"]) == 0
    assert runs.contents(folder, ignore=("plot.png",)) == before
    assert main(["compare", str(recipe), "--arms", "sigmoid", "iris", "sft", "--equal", "compute"]) == 0
    fewer = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert fewer["figures"] == {name: of for name, of in figures.items() if name not in dpo}


@pytest.mark.slow
def test_a_comparison_with_equal_compute(tmp_path: Path, llama_folder: Path) -> None:
    """The table and comparison.json list costs and their sums: SFT from the base has cost as much as SFT first and
    self-play, to within a step. They also say that the learning rates were not tuned.
    """
    recipe = runs.recipe(tmp_path / "r", llama_folder, start="sft", sft_learning_rate=1e-2, sft_num_train_epochs=1)
    command = ["compare", str(recipe), "--arms", "sigmoid", "sft", "sft-best", "--equal", "compute"]
    assert main(command) == 0
    found = json.loads((tmp_path / "r/run/comparison.json").read_text(encoding="utf-8"))
    assert (found["equal"], found["learning_rates"]) == ("compute", {"sft": 1e-2, "sft-best": 1e-2})
    assert {arm: sorted(by) for arm, by in found["figures"].items()} == {
        "start": ["-1"],
        "sigmoid": ["0", "1"],
        "sft": ["0", "1"],
        "sft-best": ["1"],
    }
    last = {arm: found["figures"][arm]["1"] for arm in ("sigmoid", "sft", "sft-best")}
    step = last["sft"]["compute"] / last["sft"]["steps"]
    for arm in ("sft", "sft-best"):
        assert abs(last[arm]["compute_so_far"] - last["sigmoid"]["compute_so_far"]) <= step / 2 + 9
    counted = last["sigmoid"]
    names = ("tokens_scored", "tokens_prefilled", "tokens_sampled")
    assert counted["compute"] == 3 * counted["tokens_trained"] + sum(counted[name] for name in names)
    text = (tmp_path / "r/run/table.txt").read_text(encoding="utf-8")
    assert f"{counted['compute_so_far']:.0f}" in text
    assert all(remark in text for remark in found["remarks"])
    assert [part in found["remarks"][1] for part in ("sft 0.01", "sft-best 0.01")] == [True, True]


def test_every_arm_plays_all_its_iterations(tmp_path: Path, llama_folder: Path) -> None:
    """Anything that could end a run early is switched off, so that all arms are trained for the same time."""
    stops = {"degeneration_stop": {"truncated": 0.1}, "on_regression": "stop", "patience": 1}
    stops |= {"human_review": "every 1", "review_gate": "wait"}
    path = runs.recipe(tmp_path / "r", llama_folder, **stops, stop_at_plateau=True)
    comparison = Comparison(str(path), ["--run_dir", str(tmp_path / "c")], ["space", "sigmoid"])
    for name in ("space", "sigmoid"):
        play = comparison.recipes[name, 42].play
        assert (play.stop_at_plateau, play.degeneration_stop) == (False, {})
        assert (play.on_regression, play.patience) == ("continue", None)
        assert play.review_gate == "warn"


@pytest.mark.slow
def test_an_arm_whose_training_diverges_ends_and_says_so(
    tmp_path: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no model to continue from. The others are played, and the same command does not start it again."""
    recipe = runs.recipe(tmp_path, llama_folder, max_steps=1)  # its weights become NaN after the first step
    own = {"space": {"learning_rate": [1e30, 2e-2]}}
    for played in (True, False):
        Comparison(str(recipe), [], ["sigmoid", "space"], arm_settings=own).run()
        said = " ".join(capsys.readouterr().out.split())
        assert names(said, "space, seed 42", "iteration 0", "diverged")
        assert ("seed 42: space ..." in said) == played
    figures = json.loads((tmp_path / "run/comparison.json").read_text(encoding="utf-8"))["figures"]
    assert set(figures["sigmoid"]) == {"0", "1"}
    assert set(figures["space"]) == {"0"}


def test_an_arm_that_stops_by_on_nan_is_a_result(
    tmp_path: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are played. Its reason and rows are shown wherever the comparison is shown, and it is started again
    only with another `on_nan`.
    """
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1)
    launched: list[str] = []

    def play(self: Launches, arguments: list[str], *others: Any) -> int:
        """Stand in for a run: the start and its answers, and a first iteration that was evaluated or has diverged."""
        directory = RunDirectory(Path(arguments[1]))
        launched.append(directory.path.name)
        journal = Journal(directory.own("journal.jsonl"))
        if not journal.entries():
            journal.append(Step.EVALUATE, "start")
            journal.append(Step.GENERATE, "iteration-0")
        on_nan = read_recipe(arguments[1]).args.on_nan
        if directory.path.name == "space" and on_nan != "skip":
            of_end = {"at_step": 3, "rows": [["k1", 0, 0]], "reason": "NaN for k1"}
            journal.append(Step.DIVERGED, "iteration-0", on_nan=on_nan, **of_end)
            return 1
        for step in (Step.TRAIN, Step.EVALUATE):
            journal.append(step, "iteration-0", steps=4)
        directory.own("iteration-0").mkdir(exist_ok=True)
        directory.metrics(Stage("iteration-0")).write_text('{"nll": 1.5, "held_out": 3}', encoding="utf-8")
        directory.own("best.json").write_text('{"stage": "iteration-0"}', encoding="utf-8")
        return 0

    monkeypatch.setattr(Launches, "run", play)
    for _ in range(2):
        result = Comparison(str(recipe), [], ["sigmoid", "space", "iris"]).run()
        known = {"arm": "space", "seed": 42, "stage": "iteration-0", "step": 3, "rows": [["k1", 0, 0]]}
        assert result["ended"] == [{**known, "reason": "NaN for k1"}]
        assert result["figures"].keys() == {"start", "sigmoid", "iris"}
        printed, table = capsys.readouterr().out, (tmp_path / "run/table.txt").read_text(encoding="utf-8")
        for said in (printed, table):
            assert names(" ".join(said.split()), "space, seed 42", "iteration 0", "NaN for k1")
        assert launched == ["sigmoid", "space", "iris"]
    written = json.loads((tmp_path / "run/comparison.json").read_text(encoding="utf-8"))
    assert written["ended"] == result["ended"]
    result = Comparison(str(recipe), ["--on_nan", "skip"], ["sigmoid", "space", "iris"]).run()
    assert launched == ["sigmoid", "space", "iris", "space"]
    assert (result["ended"], result["figures"].keys()) == ([], {"start", "sigmoid", "space", "iris"})


def test_a_supervised_arm_that_ends_is_a_result(
    tmp_path: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run has continued, and is not started again. The comparison says where the arm ended."""
    recipe = runs.recipe(tmp_path, llama_folder)
    launched: list[str] = []

    def play(self: Launches, arguments: list[str], *others: Any) -> int:
        """Stand in for a run of two iterations whose supervised arm diverges in the second one."""
        directory = RunDirectory(Path(arguments[1]))
        launched.append(directory.path.name)
        journal = Journal(directory.own("journal.jsonl"))
        journal.append(Step.EVALUATE, "start")
        journal.append(Step.GENERATE, "iteration-0")
        directory.own("baseline")
        for stage in (Stage.of(0), Stage.of(0, "sft"), Stage.of(1)):
            for step in (Step.TRAIN, Step.EVALUATE):
                journal.append(step, stage, steps=4)
            directory.own(stage.split("/")[0])
            directory.metrics(stage).parent.mkdir(parents=True, exist_ok=True)
            directory.metrics(stage).write_text('{"nll": 1.5, "held_out": 3}', encoding="utf-8")
        of_end = {"at_step": 3, "rows": [["k1"]], "reason": "NaN for k1"}
        journal.append(Step.DIVERGED, Stage.of(1, "sft"), on_nan="stop", **of_end)
        directory.own("best.json").write_text('{"stage": "iteration-0"}', encoding="utf-8")
        return 0

    monkeypatch.setattr(Launches, "run", play)
    for _ in range(2):
        result = Comparison(str(recipe), [], ["sigmoid", "sft"]).run()
        known = {"arm": "sft", "seed": 42, "stage": "baseline/sft/iteration-1", "step": 3, "rows": [["k1"]]}
        assert result["ended"] == [{**known, "reason": "NaN for k1"}]
        assert {arm: sorted(of_arm) for arm, of_arm in result["figures"].items()} == {
            "start": [-1],
            "sigmoid": [0, 1],
            "sft": [0],
        }
        for said in (capsys.readouterr().out, (tmp_path / "run/table.txt").read_text(encoding="utf-8")):
            assert names(" ".join(said.split()), "sft, seed 42", "iteration 1", "NaN for k1")
    assert launched == ["sigmoid"]


@pytest.mark.slow
def test_an_arm_whose_loss_is_no_number_is_left_behind(tmp_path: Path, llama_folder: Path) -> None:
    """With real processes, its weights become NaN after its first step."""
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1, max_steps=2)
    own = {"space": {"learning_rate": 1e30}}
    result = Comparison(str(recipe), [], ["sigmoid", "space"], arm_settings=own).run()
    (end,) = result["ended"]
    assert (end["arm"], end["seed"], end["stage"], end["step"]) == ("space", 42, "iteration-0", 2)
    keys = {row[0] for row in end["rows"]}
    assert keys
    assert names(end["reason"], "step 2", "`learning_rate`", *keys)
    assert result["figures"].keys() == {"start", "sigmoid"}


def test_nothing_is_left_to_compare_where_every_arm_stops(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1)

    def diverge(self: Launches, arguments: list[str], *others: Any) -> int:
        journal = Journal(RunDirectory(Path(arguments[1])).own("journal.jsonl"))
        journal.append(Step.GENERATE, "iteration-0")
        journal.append(Step.DIVERGED, "iteration-0", on_nan="stop", reason="NaN")
        return 1

    monkeypatch.setattr(Launches, "run", diverge)
    with refused(DivergedError, "sigmoid, seed 42", "space, seed 42", "NaN"):
        Comparison(str(recipe), [], ["sigmoid", "space"]).run()


@pytest.mark.slow
def test_benchmarks_that_were_asked_for_are_no_cost_of_an_arm(compared: Path, tmp_path: Path) -> None:
    """`spin-trl eval` also writes to the journal."""
    directory = RunDirectory(shutil.copytree(arm(compared, "iris"), tmp_path / "copy", symlinks=True))
    (before,) = figures_of_arm(directory, "iteration-0", "iris", 0, 42)
    Journal(directory.journal).append("lm-eval", "iteration-0", seconds=7200.0)
    assert figures_of_arm(directory, "iteration-0", "iris", 0, 42) == [before]


@pytest.mark.slow
def test_a_run_is_not_written_over(compared: Path, tmp_path: Path, llama_folder: Path) -> None:
    """The comparison's directory may be the recipe's, but not the run directory."""
    run = arm(compared, "sigmoid")
    with refused(RecipeError, run, "`--run_dir`"):
        Comparison(str(run), [], ["space"])
    found = Comparison(str(run), ["--run_dir", str(tmp_path / "c")], ["space"]).recipes["space", 42]
    assert found.play.per_iteration == {}
