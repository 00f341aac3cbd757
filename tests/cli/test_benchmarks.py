"""`spin-trl eval` lists benchmarks, and refuses bad input before a model is loaded."""

import importlib.metadata

import pytest

from messages import names
from refusals import refusal
from spin_trl.cli import main


def test_the_benchmark_suites_are_listed_without_a_run(capsys):
    assert main(["eval", "--tasks", "list"]) == 0
    listed = capsys.readouterr().out
    assert "open_llm_leaderboard_v1: ARC (25), TruthfulQA (0)" in listed
    assert "iris_ten: GSM8K (5)" in listed


def test_benchmarks_without_the_extra_say_what_to_install(capsys, monkeypatch):
    version = importlib.metadata.version

    def without(package):
        if package == "lm_eval":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", without)
    message = refusal(capsys, "eval", "runs/my", "--tasks", "iris_ten")
    assert names(message, "pip install 'spin_trl[lm-eval]'")


def test_benchmarks_of_a_run_that_is_not_there_are_refused(capsys, monkeypatch):
    monkeypatch.setattr("spin_trl.cli.benchmarks.harness_version", lambda: "0")
    assert names(refusal(capsys, "eval", "nowhere", "--tasks", "iris_ten"), "nowhere", "recipe.yaml")
    assert names(refusal(capsys, "eval", "--tasks", "iris_ten"), "`spin-trl eval RUN --tasks ...`")


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--limit", "0", ("questions", "fraction")),
        ("--limit", "1.5", ("questions", "fraction")),
        ("--limit", "many", ("questions", "fraction")),
        ("--num_fewshot", "-1", ()),
        ("--batch_size", "0", ("requests", "`auto`")),
    ],
)
def test_a_bad_number_for_benchmarks_is_named(capsys, option, value, parts):
    with pytest.raises(SystemExit) as ended:
        main(["eval", "runs/my", "--tasks", "iris_ten", f"{option}={value}"])
    assert ended.value.code == 2
    assert names(capsys.readouterr().err, option, f"'{value}'", *parts)
