"""Bad input gives one clear message and an exit code but no traceback, and finished work is never lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError

import tiny
from messages import names
from refusals import refusal
from runs import build
from spin_trl.cli import main
from spin_trl.generation.store import GenerationStore
from spin_trl.run.journal import Journal


def test_without_a_command_the_help_lists_them(capsys):
    """It is bad input, since a script that lost its arguments must not look like a success."""
    assert main([]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert names(printed.err, "COMMAND", "preview", "run", "report", "--version")
    with pytest.raises(SystemExit) as error:
        main(["--vresion"])
    assert error.value.code == 2
    assert names(capsys.readouterr().err, "--vresion")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["preveiw", "x.yaml"], ["'preveiw'", "'preview'?", "init", "completion"]),
        (["banana"], ["'banana'", "run", "report"]),
        (["--vresion"], ["--vresion", "'--version'?"]),
        (["report", "run", "--outptu", "3"], ["spin-trl report:", "--outptu 3", "'--output'?"]),
        (["completion", "bahs"], ["spin-trl completion:", "'bahs'", "'bash'?", "zsh", "fish"]),
        (["recipes", "stray"], ["spin-trl recipes:", "stray"]),
    ],
)
def test_a_misspelt_command_or_option_is_answered_with_the_nearest(capsys, arguments, parts):
    """The message also has the usage of the misused command."""
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert names(message, *parts), message
    assert message.count("?") == sum("?" in part for part in parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"dataset_name": "nowhere.jsonl"}, ["nowhere.jsonl"]),
        ({"dataset_name": None}, ["`dataset_name`"]),
        ({"learning_rat": 1e-3}, ["'learning_rat'", "'learning_rate'"]),
        ({"learning_rate": [1e-3, 1e-4, 1e-5]}, ["`learning_rate`", 3, 2, "iterations"]),
        ({"beta": [0.1, "high"]}, ["`beta`", [0.1, "high"], "numbers"]),
        ({"temperature": -1}, ["`temperature`", -1.0, 0]),
        ({"num_iterations": 0}, ["`num_iterations`", 0, 1]),
        ({"scorer": "spin_trl.nowhere:score"}, ["'spin_trl.nowhere:score'", "function"]),
        ({"metric_for_best_iteration": "score"}, ["`metric_for_best_iteration`", "'score'", "`scorer`"]),
        ({"model_name_or_path": "no/such-model"}, ["'no/such-model'"]),
        ({"max_length": 4}, ["`max_length`", 4]),
        ({"accelerate_config": "nowhere.yaml"}, ["nowhere.yaml"]),
    ],
)
def test_a_bad_setting_is_named(recipe, capsys, changes, parts):
    message = refusal(capsys, "run", recipe(**changes))
    assert names(message, *parts), message


def test_a_value_that_is_refused_is_not_called_unusual_too(recipe, capsys, caplog):
    """One mistake gives one message."""
    message = refusal(capsys, "run", recipe(loss_type="sigmoid"), "--beta", "-1")
    assert names(message, "`beta`", -1.0, 0)
    assert not any(names(record, "`beta`") for record in caplog.messages)


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (['{"prompt": "a", "completion": "b"}', '{"prompt": "a", '], ["train.jsonl", "line 2", "JSON"]),
        (['["prompt", "completion"]'], ["train.jsonl", "item 1", "object"]),
        (['{"messages": [{"role": "user", "content": "a"}]}'], ["Row 0", "assistant", "['user']"]),
        (
            ['{"prompt": "a", "completion": "b"}', '{"prompt": "a", "completion": " "}'],
            ["Row 1", "completion", "empty"],
        ),
        (['{"text": "a"}'], ["['text']", "`messages`", "`prompt`", "`completion`"]),
        (['{"prompt": "a", "chosen": "b", "rejected": "c"}'], ["`chosen`", "`rejected`", "SPINTrainer"]),
    ],
)
def test_bad_data_is_named_with_its_place(recipe, capsys, tmp_path, lines, parts):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    message = refusal(capsys, "run", recipe())
    assert names(message, *parts), message


def test_a_column_that_is_to_be_renamed_but_is_not_there_is_named(recipe, capsys, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"q": "a", "answer": "b"}', encoding="utf-8")
    message = refusal(capsys, "run", recipe(column_mapping={"question": "prompt", "answer": "completion"}))
    assert names(message, "'question'", "'q'")


def test_conversations_need_a_chat_template(recipe, capsys, tmp_path):
    folder = tiny.save(tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.sft(4, kind="messages"))
    message = refusal(capsys, "run", recipe(model_name_or_path=str(folder)))
    assert names(message, "`tokenizer.chat_template`")


def test_a_recipe_that_does_not_exist_names_those_that_do(capsys):
    message = refusal(capsys, "run", "quickstrat")
    assert names(message, "'quickstrat'", "'quickstart'")


def test_an_unknown_option_on_the_command_line_is_named(recipe, capsys):
    message = refusal(capsys, "run", recipe(), "--num_iteration", "3")
    assert names(message, "'--num_iteration'", "'--num_iterations'")


@pytest.mark.slow
def test_a_list_on_the_command_line_is_one_value_an_iteration(recipe, capsys):
    assert main(["run", recipe(), "--learning_rate", "[1e-3,5e-4]", "--smoke"]) == 0
    frozen = yaml.safe_load(Path("runs/my-smoke/recipe.yaml").read_text(encoding="utf-8"))
    assert frozen["per_iteration"] == {"learning_rate": [1e-3, 5e-4]}
    message = refusal(capsys, "run", recipe(), "--learning_rate=[1e-3,5e-4,1e-4]", "--run_dir", "other")
    assert names(message, "`learning_rate`", 3, 2, "iterations")


def test_the_directory_of_another_run_is_refused_and_the_difference_named(recipe, capsys):
    assert main(["run", recipe(), "--num_iterations", "1"]) == 0
    message = refusal(capsys, "run", recipe(learning_rate=5e-4), "--num_iterations", "1")
    assert names(message, "learning_rate:", "was 0.001", "now 0.0005")


def test_changed_data_stops_a_run_that_is_continued(recipe, capsys, tmp_path):
    assert main(["run", recipe(), "--num_iterations", "1"]) == 0
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.sft(13))
    assert names(refusal(capsys, "run", recipe(), "--num_iterations", "2"), "runs/my", "dataset:")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_the_user_may_not_write_is_named(recipe, capsys, monkeypatch, number):
    """Every command prints a single message."""

    def refuse(*_):
        raise OSError(number, os.strerror(number), "theirs/run")

    monkeypatch.setattr("spin_trl.play.loop.SelfPlay.run", refuse)
    message = refusal(capsys, "run", recipe())
    assert names(message, "user", os.strerror(number), "'theirs/run'", "permissions")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize(
    ("command", "run_dir"), [("run", "theirs"), ("run", "theirs/run"), ("start", "theirs"), ("start", "theirs/run")]
)
def test_a_run_directory_of_somebody_else_is_refused(recipe, capsys, command, run_dir):
    """The message comes from the operating system."""
    Path("theirs").mkdir(mode=0o555)
    assert names(refusal(capsys, command, recipe(run_dir=run_dir)), "theirs")


def test_a_full_disk_is_a_failure_that_keeps_what_was_finished(recipe, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = recipe()
    with monkeypatch.context() as patch:
        patch.setattr(GenerationStore, "write_shard", full)
        message = refusal(capsys, "run", path, code=1)
    assert names(message, "disk", "`keep_iterations`", "same command")
    done = [(entry["phase"], entry["stage"]) for entry in Journal(Path("runs/my/journal.jsonl")).entries()]
    assert ("prepare", "data") in done
    assert main(["run", path]) == 0


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
)
def test_a_disk_that_is_full_when_a_checkpoint_is_written_is_said_so_too(recipe, capsys, monkeypatch, error):
    """safetensors and torch raise their own errors, which are the ones raised here."""

    def full(*_, **__):
        raise error

    path = recipe(save_strategy="steps", save_steps=1, num_iterations=1)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer._save_checkpoint", full)
        message = refusal(capsys, "run", path, code=1)
    assert names(message, "disk", "`keep_iterations`")
    assert Journal(Path("runs/my/journal.jsonl")).entries()[-1]["phase"] == "generate"
    assert main(["run", path]) == 0


def test_a_run_directory_that_is_a_file_is_refused(recipe, capsys):
    Path("taken").write_text("mine", encoding="utf-8")
    assert names(refusal(capsys, "run", recipe(), "--run_dir", "taken"), "taken", f"Errno {errno.EEXIST}")
    assert Path("taken").read_text(encoding="utf-8") == "mine"


def test_weights_that_are_a_pickle_are_refused(recipe, capsys, tmp_path):
    folder = tiny.save(tmp_path / "pickle")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = refusal(capsys, "run", recipe(model_name_or_path=str(folder)))
    assert names(message, folder, "safetensors", "pytorch_model.bin")


def test_a_run_that_was_started_from_python_goes_on_there(capsys, llama_folder):
    build(llama_folder, "mine", num_iterations=1).run_phase("start", 0)
    capsys.readouterr()
    assert names(refusal(capsys, "run", "mine"), "mine/recipe.yaml", "Python")


def test_a_run_directory_goes_on_without_its_recipe(recipe, capsys):
    path = recipe(num_iterations=1)
    assert main(["run", path]) == 0
    Path(path).unlink()
    assert main(["run", "runs/my", "--num_iterations", "2"]) == 0
    assert ("train", "iteration-1") in [
        (entry["phase"], entry["stage"]) for entry in Journal(Path("runs/my/journal.jsonl")).entries()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_130_and_the_run_goes_on_later(recipe, signum):
    """Ctrl-C and a scheduler's SIGTERM are sent to a real process."""
    path = recipe(num_train_epochs=400, save_strategy="steps", save_steps=20)
    command = [sys.executable, "-m", "spin_trl", "run", path, "--num_iterations", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        # A shell ignores SIGINT in background jobs, and these tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    train = Path("runs/my/iteration-0/train")
    deadline = time.monotonic() + 120
    while not list(train.glob("checkpoint-*/checkpoint.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert names(errors, "Interrupted", "same command")
    assert "Traceback" not in errors
    done = [entry["phase"] for entry in Journal(Path("runs/my/journal.jsonl")).entries()]
    assert done[-1] == "generate"
    assert (
        json.loads(next(train.glob("checkpoint-*/checkpoint.json")).read_text(encoding="utf-8"))["num_processes"] == 1
    )


def test_a_process_that_is_not_the_first_says_why_it_ends_too(capsys, monkeypatch):
    """It may be the only process that fails, and the launcher knows only its exit code."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert main(["run", "quickstrat"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("spin-trl (process 3): ")
    assert names(message, "'quickstrat'", "'quickstart'")


def test_a_smoke_run_has_a_directory_of_its_own(recipe, monkeypatch):
    """The real run has other settings, and must not find the smoke run in its directory."""
    played = []
    monkeypatch.setattr(
        "spin_trl.play.loop.SelfPlay.run_phase", lambda self, *phase: played.append(self.directory.path)
    )
    path = recipe(run_dir=None)
    assert main(["start", path, "--smoke"]) == 0
    assert main(["start", path]) == 0
    assert [str(one) for one in played] == [f"runs/{Path(path).stem}-smoke", f"runs/{Path(path).stem}"]
