"""Benchmarks on a run's models store the model's true scores, run nothing twice, and lose nothing."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import runs
import tiny
from messages import logged, names
from play import harness_tasks
from spin_trl.cli import main

pytest.importorskip("lm_eval", reason="lm-evaluation-harness, an optional extra, is not installed")

from lm_eval.models.huggingface import HFLM

from spin_trl.evaluation import benchmarks, harness

# Imported by every process before the command; it records how many requests each process answers.
OWN_TASKS_ONLY = """
import os, sys
from lm_eval.models.huggingface import HFLM
from spin_trl.evaluation import harness
answer = HFLM.loglikelihood
def spy(self, requests, **kwargs):
    with open("seen.txt", "a") as file:
        print(os.environ["RANK"], len(requests), len({request.doc_id for request in requests}), file=file)
    return answer(self, requests, **kwargs)
HFLM.loglikelihood = spy
harness.tasks = lambda include_path=None: harness._Tasks(include_path=include_path, include_defaults=False)
from spin_trl.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _own_tasks_only(monkeypatch):
    """Limit the harness to our own tasks: it would read 14,000 of its own files, which these tests don't need."""

    def tasks(include_path=None):
        return harness._Tasks(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(harness, "tasks", tasks)


@pytest.fixture(scope="module")
def run(tmp_path_factory, llama_folder):
    """Return a run of two iterations with a baseline arm."""
    folder = tmp_path_factory.mktemp("benchmarks")
    recipe = runs.recipe(folder, llama_folder, baseline="sft", num_train_epochs=4)
    assert main(["run", str(recipe)]) == 0
    return folder / "run"


@pytest.fixture
def fresh(run, tmp_path):
    """Return the run without any benchmark results."""
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    for folder in copy.rglob("lm-eval"):
        shutil.rmtree(folder)
    return copy


@pytest.fixture
def tasks(tmp_path):
    return harness_tasks.write(tmp_path / "tasks")


def evaluate(run, tasks, *arguments, names=("pick_colour",), code=0):
    assert main(["eval", str(run), "--tasks", *names, "--include_path", str(tasks), *arguments]) == code


def stored(run, stage, name):
    return json.loads(Path(run, stage, "lm-eval", f"{name}.json").read_text(encoding="utf-8"))


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def calls(monkeypatch):
    """Record the number of requests that reach the model, by kind."""
    seen = {"loglikelihood": 0, "generate_until": 0}
    for kind in seen:
        original = getattr(HFLM, kind)

        def spy(self, requests, *args, _kind=kind, _original=original, **kwargs):
            seen[_kind] += len(requests)
            return _original(self, requests, *args, **kwargs)

        monkeypatch.setattr(HFLM, kind, spy)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "stage"),
    [
        (("--stage", "start"), "start"),
        (("--iteration", "0"), "iteration-0"),
        (("--stage", "iteration-1"), "iteration-1"),
        (("--stage", "baseline/sft/iteration-0"), "baseline/sft/iteration-0"),
    ],
)
@pytest.mark.parametrize("shots", [0, 2])
def test_what_is_stored_is_what_the_stages_model_scores(fresh, tasks, llama_folder, option, stage, shots):
    evaluate(fresh, tasks, *option, "--num_fewshot", str(shots), "--log_samples")
    found = stored(fresh, stage, f"pick_colour-{shots}-shot")
    model, tokenizer = load(llama_folder if stage == "start" else fresh / stage / "model")
    expected = harness_tasks.choice_logps(model, tokenizer, shots)
    for sample, logps in zip(found["samples"]["pick_colour"], expected, strict=True):
        assert [answer[0][0] for answer in sample["resps"]] == pytest.approx(logps, abs=1e-3)
    accuracies = harness_tasks.choice_accuracies(expected)
    assert found["results"]["pick_colour"]["acc,none"] == pytest.approx(accuracies["acc"])
    assert found["results"]["pick_colour"]["acc_norm,none"] == pytest.approx(accuracies["acc_norm"])
    assert found["n-shot"] == {"pick_colour": shots}


@pytest.mark.slow
def test_the_task_can_tell_models_apart(run, llama_folder):
    """Otherwise the test above would hold for any model: the numbers that it compares differ."""
    folders = [
        llama_folder,
        run / "iteration-0/model",
        run / "iteration-1/model",
        run / "baseline/sft/iteration-0/model",
    ]
    logps = [harness_tasks.choice_logps(*load(folder), 2) for folder in folders]
    for index, one in enumerate(logps):
        for other in logps[index + 1 :]:
            assert abs(one[0][0] - other[0][0]) > 0.01
    accuracies = [harness_tasks.choice_accuracies(one) for one in logps]
    assert len({tuple(found.values()) for found in accuracies}) >= 3, accuracies
    assert any(found["acc"] != found["acc_norm"] for found in accuracies), accuracies


def test_generated_answers_are_those_of_greedy_decoding(fresh, tmp_path):
    rows = harness_tasks.answer_rows()
    model, tokenizer = load(fresh / "iteration-0/model")
    said = [harness_tasks.greedy_answer(model, tokenizer, row["question"]) for row in rows]
    for row, answer in list(zip(rows, said, strict=True))[:3]:
        row["answer"] = answer
    tasks = harness_tasks.write(tmp_path / "answers", rows)
    evaluate(fresh, tasks, "--iteration", "0", "--log_samples", names=["say_colour"])
    found = stored(fresh, "iteration-0", "say_colour")
    assert [sample["resps"][0][0] for sample in found["samples"]["say_colour"]] == said
    assert found["results"]["say_colour"]["exact_match,none"] == pytest.approx(3 / 5)


def test_the_best_stage_is_the_default(fresh, tasks, capsys):
    best = json.loads((fresh / "best.json").read_text(encoding="utf-8"))["stage"]
    evaluate(fresh, tasks)
    assert Path(fresh, best, "lm-eval", "pick_colour.json").is_file()
    assert f"run, {best}" in capsys.readouterr().out


def test_what_was_evaluated_stands_beside_the_harness_own(fresh, tasks):
    evaluate(fresh, tasks, "--iteration", "1", "--limit", "5")
    found = stored(fresh, "iteration-1", "pick_colour-limit-5")
    known = found["evaluated"]
    assert known["stage"] == "iteration-1"
    assert known["lm_eval"] == importlib.metadata.version("lm_eval")
    assert (known["limit"], known["num_fewshot"], known["num_processes"]) == (5, None, 1)
    from spin_trl.models.digest import digest

    assert known["model_digest"] == digest(load(fresh / "iteration-1/model")[0])
    assert found["n-samples"]["pick_colour"] == {"original": harness_tasks.QUESTIONS, "effective": 5}
    assert found["n-shot"] == {"pick_colour": 0}
    assert {"results", "configs", "versions", "config"} <= set(found)
    assert "samples" not in found
    model, tokenizer = load(fresh / "iteration-1/model")
    expected = harness_tasks.choice_accuracies(harness_tasks.choice_logps(model, tokenizer), limit=5)
    assert found["results"]["pick_colour"]["acc,none"] == pytest.approx(expected["acc"])


def test_the_journal_knows_of_it_and_the_run_goes_on(fresh, tasks):
    before = runs.journal(fresh)
    evaluate(fresh, tasks, "--iteration", "1")
    *rest, last = runs.journal(fresh)
    assert rest == before
    assert (last["phase"], last["stage"], last["task"]) == ("lm-eval", "iteration-1", "pick_colour")
    assert (
        last["pick_colour acc"]
        == stored(fresh, "iteration-1", last["file"].removesuffix(".json"))["results"]["pick_colour"]["acc,none"]
    )


def test_stored_results_are_shown_again_and_run_once(fresh, tasks, capsys, calls):
    evaluate(fresh, tasks, "--iteration", "0")
    first, table = stored(fresh, "iteration-0", "pick_colour"), capsys.readouterr().out
    assert calls["loglikelihood"] > 0
    calls["loglikelihood"] = 0
    evaluate(fresh, tasks, "--iteration", "0")
    assert calls["loglikelihood"] == 0
    assert capsys.readouterr().out == table
    assert stored(fresh, "iteration-0", "pick_colour") == first
    evaluate(fresh, tasks, "--iteration", "0", "--again")
    assert calls["loglikelihood"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [("--limit", "3"), ("--num_fewshot", "1"), ("--apply_chat_template",), ("--log_samples",), ("--iteration", "1")],
)
def test_other_settings_are_other_results(fresh, tasks, calls, other):
    stage = () if "--iteration" in other else ("--iteration", "0")
    evaluate(fresh, tasks, "--iteration", "0")
    first = Path(fresh, "iteration-0/lm-eval/pick_colour.json").read_bytes()
    calls["loglikelihood"] = 0
    evaluate(fresh, tasks, *stage, *other)
    assert calls["loglikelihood"] > 0
    if other != ("--log_samples",):
        assert Path(fresh, "iteration-0/lm-eval/pick_colour.json").read_bytes() == first


def test_the_chat_template_is_the_runs_with_its_settings(tmp_path, tasks, llama_folder):
    settings = {"chat_template_kwargs": {"style": "curt"}, "num_iterations": 1}
    assert main(["run", str(runs.recipe(tmp_path, llama_folder, tiny.sft(15, "messages"), **settings))]) == 0
    evaluate(tmp_path / "run", tasks, "--iteration", "0", "--apply_chat_template", "--log_samples")
    (asked, _), *_ = stored(tmp_path / "run", "iteration-0", "pick_colour-chat")["samples"]["pick_colour"][0][
        "arguments"
    ]
    question = harness_tasks.choice_rows(0, 1)[0]["question"]
    assert asked.startswith("<|im_start|>system\nStyle: curt<|im_end|>")
    assert asked.rstrip().endswith(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant")


def test_a_task_that_has_changed_is_run_again(fresh, tasks, calls):
    evaluate(fresh, tasks)
    calls["loglikelihood"] = 0
    path = tasks / "pick_colour.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "description: 'Colours. '\n", encoding="utf-8")
    evaluate(fresh, tasks)
    assert calls["loglikelihood"] > 0


def test_data_of_a_task_that_has_changed_is_asked_anew(fresh, tasks, calls):
    evaluate(fresh, tasks)
    calls["loglikelihood"] = 0
    for data in tasks.glob("*.jsonl"):
        data.write_text(
            "".join(reversed(data.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8"
        )
    evaluate(fresh, tasks)
    assert calls["loglikelihood"] > 0


def test_results_that_are_damaged_are_measured_again(fresh, tasks, calls, caplog):
    evaluate(fresh, tasks)
    before, path = stored(fresh, "iteration-1", "pick_colour"), fresh / "iteration-1" / "lm-eval" / "pick_colour.json"
    path.write_text('{"evaluated": {}, "results": 1}', encoding="utf-8")
    calls["loglikelihood"] = 0
    evaluate(fresh, tasks)
    assert calls["loglikelihood"] > 0
    assert stored(fresh, "iteration-1", "pick_colour")["results"] == before["results"]
    logged(caplog, path, "`results`")


def test_other_weights_in_the_same_folder_are_another_model(fresh, tasks, calls, llama_folder):
    """The stored numbers do not apply to them."""
    evaluate(fresh, tasks, "--iteration", "0")
    before = stored(fresh, "iteration-0", "pick_colour")
    weights = Path(fresh, "iteration-0/model/model.safetensors")
    weights.write_bytes(Path(fresh, "iteration-1/model/model.safetensors").read_bytes())
    calls["loglikelihood"] = 0
    evaluate(fresh, tasks, "--iteration", "0")
    assert calls["loglikelihood"] > 0
    after = stored(fresh, "iteration-0", "pick_colour")
    assert after["evaluated"]["model_digest"] != before["evaluated"]["model_digest"]


def test_a_number_that_the_harness_did_not_measure_costs_no_other(fresh, tasks, capsys, monkeypatch, calls):
    """If, for example, a custom task has a benchmark's name, the answers are kept and the next benchmark runs."""
    odd = (
        benchmarks.Benchmark("Colours", "pick_colour", 2, ("f1,none",)),
        benchmarks.Benchmark("Sayings", "say_colour", 0, ("exact_match,none",)),
    )
    monkeypatch.setattr(benchmarks, "SUITES", {"odd": odd})
    for times in range(2):
        evaluate(fresh, tasks, "--iteration", "0", names=["odd"], code=1)
        said = capsys.readouterr()
        assert names(said.err, "Colours (pick_colour)", "'f1,none'")
        assert "Traceback" not in said.err
        assert "Sayings" in said.out
        assert len(list(Path(fresh, "iteration-0/lm-eval").iterdir())) == 2
        if times:
            assert calls == {"loglikelihood": 0, "generate_until": 0}
        calls.update(loglikelihood=0, generate_until=0)


def test_results_of_another_version_of_the_harness_are_not_shown(fresh, tasks, calls):
    evaluate(fresh, tasks, "--iteration", "0")
    path = fresh / "iteration-0/lm-eval/pick_colour.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"lm_eval": "', '"lm_eval": "0.'), encoding="utf-8")
    calls["loglikelihood"] = 0
    evaluate(fresh, tasks, "--iteration", "0")
    assert calls["loglikelihood"] > 0


def test_a_suite_that_is_interrupted_goes_on_where_it_was(fresh, tasks, capsys, monkeypatch, calls):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HFLM, "generate_until", interrupted)
        evaluate(fresh, tasks, "--iteration", "0", names=["pick_colour", "say_colour"], code=130)
    assert names(capsys.readouterr().err, "Interrupted")
    assert [path.name for path in Path(fresh, "iteration-0/lm-eval").iterdir()] == ["pick_colour.json"]
    calls.update(loglikelihood=0, generate_until=0)
    evaluate(fresh, tasks, "--iteration", "0", names=["pick_colour", "say_colour"])
    assert calls == {"loglikelihood": 0, "generate_until": 5}
    assert len(list(Path(fresh, "iteration-0/lm-eval").iterdir())) == 2


@pytest.fixture
def suite(monkeypatch):
    found = (
        benchmarks.Benchmark("Colours", "pick_colour", 2, ("acc_norm,none",)),
        benchmarks.Benchmark("Sayings", "say_colour", 0, ("exact_match,none",)),
    )
    monkeypatch.setattr(benchmarks, "SUITES", {"colours": found})
    return found


def test_a_suite_is_shown_in_percent_with_its_plain_mean(fresh, tmp_path, capsys, suite, llama_folder):
    rows = harness_tasks.answer_rows()
    model, tokenizer = load(llama_folder)
    rows[0]["answer"] = harness_tasks.greedy_answer(model, tokenizer, rows[0]["question"])
    evaluate(fresh, harness_tasks.write(tmp_path / "answers", rows), "--stage", "start", names=["colours"])
    share = harness_tasks.choice_accuracies(harness_tasks.choice_logps(model, tokenizer, 2))["acc_norm"]
    # The harness's standard error of a mean of n zeros and ones: sqrt(p (1 - p) / (n - 1)).
    error = (share * (1 - share) / (harness_tasks.QUESTIONS - 1)) ** 0.5
    shown = [line.strip("│ ").split() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert shown[0] == ["Colours", "│", "2", "│", "acc_norm", "│", f"{100 * share:.2f}", "±", f"{100 * error:.2f}"]
    assert shown[1] == ["Sayings", "│", "0", "│", "exact_match", "│", "20.00", "±", "20.00"]
    assert shown[2] == ["average", "│", "│", "│", f"{(100 * share + 20) / 2:.2f}"]


def test_shots_that_are_asked_for_reach_the_whole_suite(fresh, tasks, suite):
    evaluate(fresh, tasks, "--iteration", "0", "--num_fewshot", "1", names=["colours"])
    assert stored(fresh, "iteration-0", "pick_colour-1-shot")["n-shot"] == {"pick_colour": 1}


def test_a_benchmark_that_fails_is_named_and_the_others_are_kept(fresh, tasks, capsys):
    evaluate(fresh, tasks, "--iteration", "0", names=["missing", "pick_colour"], code=1)
    said = capsys.readouterr()
    assert names(said.err, "1 of 2 benchmarks", "missing:", "nobody/nothing", "`hf auth`")
    assert "Traceback" not in said.err
    assert "pick_colour" in said.out
    assert [path.name for path in Path(fresh, "iteration-0/lm-eval").iterdir()] == ["pick_colour.json"]


def test_a_prompt_that_leaves_no_room_is_an_error_with_words(fresh, tasks, capsys):
    path = tasks / "say_colour.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("max_gen_toks: 5", "max_gen_toks: 600"), encoding="utf-8")
    evaluate(fresh, tasks, names=["say_colour"], code=1)
    assert names(capsys.readouterr().err, "1 of 1 benchmark", "say_colour:", 600)


@pytest.mark.slow
def test_a_lora_run_is_evaluated_with_its_adapters(tmp_path, tasks, llama_folder):
    settings = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "num_train_epochs": 6}
    assert main(["run", str(runs.recipe(tmp_path, llama_folder, **settings))]) == 0
    run = tmp_path / "run"
    assert (run / "iteration-1/model/adapter_config.json").is_file()
    base, tokenizer = load(llama_folder)
    for stage in ("start", "iteration-1"):
        evaluate(run, tasks, "--stage", stage, "--num_fewshot", "2", "--log_samples")
        model = base if stage == "start" else PeftModel.from_pretrained(base, run / stage / "model")
        expected = harness_tasks.choice_logps(model, tokenizer, 2)
        samples = stored(run, stage, "pick_colour-2-shot")["samples"]["pick_colour"]
        for sample, logps in zip(samples, expected, strict=True):
            assert [answer[0][0] for answer in sample["resps"]] == pytest.approx(logps, abs=1e-3)


@pytest.mark.slow
def test_a_run_from_python_is_evaluated_with_what_it_was_given(tmp_path, tasks, llama_folder):
    """These are a model passed as an object, a separate tokenizer, and another directory."""
    model = tiny.model("llama", seed=3)
    tokenizer = tiny.tokenizer()
    runs.build(model, tmp_path / "first", processing_class=tokenizer, num_iterations=1).run()
    moved = tmp_path / "moved"
    (tmp_path / "first").rename(moved)
    for stage in ("start", "iteration-0"):
        evaluate(moved, tasks, "--stage", stage, "--log_samples")
        expected = harness_tasks.choice_logps(load(moved / stage / "model")[0], tokenizer)
        samples = stored(moved, stage, "pick_colour")["samples"]["pick_colour"]
        assert samples[0]["resps"][0][0][0] == pytest.approx(expected[0][0], abs=1e-3)


@pytest.mark.slow
def test_a_tokenizer_that_was_given_in_python_is_the_runs(tmp_path, tasks, llama_folder):
    """It differs from the model's own: here, turns end with other tokens."""
    tokenizer = tiny.tokenizer(eos_token=tiny.END_OF_TEXT, pad_token=tiny.IM_START)
    runs.build(llama_folder, tmp_path / "mine", processing_class=tokenizer, num_iterations=1).run()
    evaluate(tmp_path / "mine", tasks, "--stage", "start")
    assert stored(tmp_path / "mine", "start", "pick_colour")["tokenizer_eos_token"][0] == tiny.END_OF_TEXT


@pytest.mark.slow
def test_a_quantised_run_from_python_is_loaded_quantised(tmp_path, tasks, monkeypatch):
    folder = tiny.save(tmp_path / "model", tiny.model("llama"))
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    settings = {"num_iterations": 1, "model_init_kwargs": {"dtype": torch.float32}}
    runs.build(folder, "mine", peft_config=lora, quantization_config=quantised, **settings).run()
    seen = []
    original = harness.SharedModel.__init__
    monkeypatch.setattr(
        harness.SharedModel,
        "__init__",
        lambda self, model, *a, **k: (seen.append(model), original(self, model, *a, **k))[1],
    )
    evaluate("mine", tasks, "--iteration", "0")
    base = seen[0].get_base_model()
    assert base.is_loaded_in_4bit
    assert base.lm_head.weight.dtype == torch.float32


def test_it_computes_as_the_run_does_or_as_this_machine_can(fresh, tasks, monkeypatch):
    """It uses the run's mixed precision, unless overridden; log-probabilities are still summed in float32."""
    seen = []
    original = harness.run_benchmark
    monkeypatch.setattr(
        harness, "run_benchmark", lambda model, *a, **k: (seen.append(model), original(model, *a, **k))[1]
    )
    evaluate(fresh, tasks, "--iteration", "0")
    evaluate(fresh, tasks, "--iteration", "0", "--again", "--bf16", "true", "--batch_size", "3")
    assert [model.mixed_precision_dtype for model in seen] == [None, torch.bfloat16]
    assert [model.softmax_dtype for model in seen] == [torch.float32, torch.float32]
    assert [model.batch_size for model in seen] == [runs.SETTINGS["per_device_eval_batch_size"], 3]
    assert stored(fresh, "iteration-0", "pick_colour")["evaluated"]["mixed_precision"] == "bf16"


def test_it_needs_no_data(fresh, tasks):
    """The run's dataset may no longer exist, and neither may a scorer's code."""
    import yaml

    settings = yaml.safe_load((fresh / "recipe.yaml").read_text(encoding="utf-8"))
    settings |= {"dataset_name": "gone.jsonl", "scorer": ["gone.module:score"]}
    (fresh / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    evaluate(fresh, tasks)


@pytest.mark.slow
def test_two_processes_share_the_requests_and_find_the_same(fresh, tasks):
    """The few-shot examples are the same too; if the harness shared the work, each process would draw different ones."""
    path = tasks / "pick_colour.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("first_n", "default"), encoding="utf-8")
    arguments = ["--tasks", "pick_colour", "say_colour", "missing", "--include_path", str(tasks), "--num_fewshot", "0"]
    arguments[-1:] = ["2", "--log_samples", "--stage"]
    Path("command.py").write_text(OWN_TASKS_ONLY, encoding="utf-8")
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options]
        + ["command.py", "eval", str(fresh), *arguments, "iteration-0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert sum(names(line, "spin-trl:", "1 of 3 benchmarks") for line in done.stderr.splitlines()) == 1
    # Each process answers half of the questions, with all their choices.
    each = {
        int(line.split()[0]): list(map(int, line.split()[1:]))
        for line in Path("seen.txt").read_text(encoding="utf-8").splitlines()
    }
    rows = harness_tasks.choice_rows(0, harness_tasks.QUESTIONS)
    assert each == {rank: [sum(len(row["choices"]) for row in rows[rank::2]), len(rows[rank::2])] for rank in (0, 1)}
    assert done.stdout.count("pick_colour") == 2  # two metrics, each listed once
    assert len([line for line in runs.journal(fresh) if line["phase"] == "lm-eval"]) == 2
    together = {name: stored(fresh, "iteration-0", f"{name}-2-shot") for name in ("pick_colour",)}
    assert together["pick_colour"]["evaluated"]["num_processes"] == 2
    assert main(["eval", str(fresh), *arguments, "iteration-0", "--again"]) == 1
    alone = stored(fresh, "iteration-0", "pick_colour-2-shot")
    assert together["pick_colour"]["results"] == alone["results"]
    pairs = zip(together["pick_colour"]["samples"]["pick_colour"], alone["samples"]["pick_colour"], strict=True)
    for one, other in pairs:
        assert one["arguments"] == other["arguments"]
        assert [value[0][0] for value in one["resps"]] == pytest.approx(
            [value[0][0] for value in other["resps"]], abs=1e-4
        )


def test_under_a_plugin_it_is_refused(fresh, tasks, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    evaluate(fresh, tasks, code=1)
    assert names(capsys.readouterr().err, "FSDP")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ("--iteration", "7"),
            ["'iteration-7'", "`keep_iterations`", "start, iteration-0, iteration-1, baseline/sft/iteration-0"],
        ),
        (("--stage", "iteration0"), ["'iteration0'", "'iteration-0'"]),
        (("--learning_rate", "1"), ["`--learning_rate`"]),
    ],
)
def test_a_stage_or_setting_that_does_not_fit_is_named(run, tasks, capsys, arguments, parts):
    evaluate(run, tasks, *arguments, code=2)
    message = capsys.readouterr().err
    assert names(message, *parts), message


def test_a_run_without_a_best_or_a_model_says_so(tmp_path, tasks, capsys, llama_folder):
    assert main(["start", str(runs.recipe(tmp_path, llama_folder))]) == 0
    evaluate(tmp_path / "run", tasks, code=2)
    assert names(capsys.readouterr().err, tmp_path / "run", "best", "start")


def test_a_model_that_was_let_go_is_named(fresh, tasks, capsys):
    (fresh / "iteration-0/model/model.safetensors").unlink()
    evaluate(fresh, tasks, "--iteration", "0", code=2)
    assert names(capsys.readouterr().err, "'iteration-0'", "`keep_iterations`")


def test_a_task_that_nobody_has_is_refused_before_the_model_is_loaded(run, tasks, capsys, calls):
    evaluate(run, tasks, names=["pick_color"], code=2)
    assert names(capsys.readouterr().err, "`--tasks`", "'pick_color'", "'pick_colour'")


def test_a_folder_of_tasks_that_is_not_there_is_named(run, capsys):
    evaluate(run, "nowhere", code=2)
    assert names(capsys.readouterr().err, "`--include_path`", "nowhere")
