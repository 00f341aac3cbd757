"""`spin-trl run`, and the commands that run a single phase."""

import shlex
from pathlib import Path

import pytest
from datasets import Dataset

import tiny
from messages import names
from refusals import refusal
from spin_trl.cli import main
from spin_trl.cli.run import names_directory
from spin_trl.play.answering import given_servers


def test_a_run_plays_and_says_where_the_best_is(recipe, capsys):
    assert main(["run", recipe()]) == 0
    output = capsys.readouterr().out
    assert names(output, "iteration-1: train:", "Best:")
    assert Path("runs/my/best.json").exists()


def test_a_smoke_run_ends_with_the_command_that_plays_the_whole_run(recipe, capsys):
    """It includes every option of the command, and works as printed."""
    path = recipe("a recipe", num_iterations=1)
    for more, ending in (
        ([], []),
        (["--run_dir", "mine", "--existing_run", "fail"], ["--run_dir", "mine", "--existing_run", "overwrite"]),
    ):
        assert main(["run", path, "--smoke", "--temperature", "0.9", *more]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        command = ["run", path, "--temperature", "0.9", *ending]
        assert last.endswith(shlex.join(["spin-trl", *command]))
    assert main(command) == 0
    assert "smoke" not in capsys.readouterr().out


def test_a_directory_that_ends_in_smoke_by_choice_is_not_a_smoke_runs_own(recipe):
    """The whole run would use that directory too, so it has to replace the smoke run."""
    path = recipe(run_dir="runs/my-smoke")
    assert names_directory(path, [], Path("runs/my-smoke").absolute())
    assert not names_directory(path, ["--run_dir", "other"], Path("runs/my-smoke").absolute())
    assert names_directory(path, ["--smoke", "--run_dir=other-smoke"], Path("other-smoke"))
    assert not names_directory(recipe(), ["--smoke"], Path("runs/my-smoke"))
    assert not names_directory(recipe(), ["--run_dir", ""], Path("runs/my-smoke"))


def test_a_smoke_run_in_a_chosen_directory_is_replaced_by_the_whole_run(recipe, capsys):
    path = recipe(num_iterations=1, run_dir="runs/my-smoke")
    assert main(["run", path, "--smoke"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(shlex.join(["spin-trl", "run", path, "--existing_run", "overwrite"]))


def test_a_recipe_for_a_smoke_run_has_to_change_for_the_whole_run(recipe, capsys):
    assert main(["run", recipe(num_iterations=1, smoke=True)]) == 0
    assert names(capsys.readouterr().out.splitlines()[-1], "recipe", "`smoke`")


def test_a_run_that_pauses_ends_with_zero(recipe, capsys):
    """A phase alone has not finished, and ends with 1."""
    url = "http://127.0.0.1:9"
    path = recipe(engine="server", server_urls=[url], held_out_fraction=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(given_servers, "ANSWER_SECONDS", 0.0)
        assert main(["run", path]) == 0
        output = capsys.readouterr().out
        assert names(output, url, "vllm serve", "spin-trl run")
        assert "Best:" not in output
        assert main(["generate", path]) == 1
        assert names(capsys.readouterr().err, url, "spin-trl run")


def test_one_phase_at_a_time_gives_the_same_model_as_a_run(recipe):
    assert main(["run", recipe(), "--run_dir", "whole"]) == 0
    first = recipe()
    assert main(["start", first, "--run_dir", "phases"]) == 0
    for iteration in ("0", "1"):
        for phase in ("generate", "train", "evaluate"):
            assert main([phase, "phases", "--iteration", iteration]) == 0
    for stage in ("iteration-0", "iteration-1"):
        weights = [Path(run, stage, "model", "model.safetensors").read_bytes() for run in ("whole", "phases")]
        assert weights[0] == weights[1]
        assert Path("whole", stage, "metrics.json").read_text(encoding="utf-8") == Path(
            "phases", stage, "metrics.json"
        ).read_text(encoding="utf-8")


def test_a_generate_phase_is_played_in_parts(recipe, capsys):
    """Every command is one that the previous one has printed."""
    path = recipe(num_iterations=1)
    assert main(["run", path, "--until", "generate"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert not names(printed, "Best:")
    assert names(
        printed, "spin-trl generate runs/my --iteration 0 --shard I/N", "spin-trl merge runs/my --iteration 0"
    )
    for part in ("2/2", "1/2"):
        assert main(["generate", "runs/my", "--iteration", "0", "--shard", part]) == 0
    assert main(["merge", "runs/my", "--iteration", "0"]) == 0
    assert names(capsys.readouterr().out, "spin-trl run runs/my")
    assert main(["run", "runs/my"]) == 0
    assert names(capsys.readouterr().out, "iteration-0: train:", "Best:")


def test_a_part_that_is_none_is_refused(recipe, capsys):
    assert names(refusal(capsys, "generate", recipe(), "--shard", "3/2"), "3/2", "I/N")
    assert names(refusal(capsys, "merge", recipe(num_iterations=2), "--iteration", "2"), "`--iteration`", 2)


def test_a_phase_of_an_iteration_that_the_run_does_not_have_is_refused(recipe, capsys):
    assert names(refusal(capsys, "generate", recipe(), "--iteration", "2"), "`--iteration`", 2, "0 to 1")


def test_a_phase_out_of_order_names_the_one_that_comes_first(recipe, capsys):
    message = refusal(capsys, "train", recipe())
    assert names(message, "train phase", 0, "generate phase", "iteration-0")
    message = refusal(capsys, "generate", recipe(), "--iteration", "1")
    assert names(message, "generate phase", 1, "train phase", "iteration-0")


def test_a_test_set_and_a_retention_set_are_named_in_a_recipe(recipe, capsys, tmp_path):
    """They can be added to a finished run, a smoke run uses eight rows of each, and the phase can be run by hand.
    Files that are missing or have other columns are refused.
    """
    more = str(tiny.write_jsonl(tmp_path / "more.jsonl", tiny.sft(40).select(range(20, 40))))
    path = recipe(num_iterations=1)
    assert main(["run", path, "--smoke"]) == 0
    assert not names(capsys.readouterr().out, "test:")
    assert main(["run", path, "--smoke", "--test_name", more, "--retain_name", more]) == 0
    output = capsys.readouterr().out
    assert names(output, "start: test:", "iteration-0: retention:", "8 prompts")
    message = refusal(capsys, "test", recipe(num_iterations=1, test_name=more), "--run_dir", "none")
    assert names(message, "test phase", "iteration-0")
    assert names(refusal(capsys, "run", path, "--test_name", "gone.jsonl"), "gone.jsonl")
    other = tiny.write_jsonl(tmp_path / "other.jsonl", Dataset.from_list([{"text": "a"}]))
    assert names(refusal(capsys, "run", path, "--test_name", str(other)), "`test_name`", "`text`")
