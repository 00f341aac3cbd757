"""`spin-trl plan` shows a plan or refuses the recipe, and downloads nothing."""

import json

import pytest

import tiny
from messages import names
from plan.shapes import folder, recipe, small
from spin_trl.cli import main
from spin_trl.plan import devices
from spin_trl.plan.planning import Advice, Wishes, advise, make_plan
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import DATA, Journal, Step


@pytest.fixture
def planned(tmp_path, monkeypatch, capsys):
    """Return a function that plans a small model, and returns the exit code and the output."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments, config=None, **settings):
        model = (
            folder(tmp_path / "model", config or small()) if not (tmp_path / "model").exists() else tmp_path / "model"
        )
        code = main(["plan", recipe(tmp_path, model, **settings), *arguments])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out + shown.err

    return run


def test_a_plan_of_a_config_alone(planned):
    """There are no weights, tokenizer, data or network: lengths are assumed, and the output says so."""
    code, shown = planned("--gpu", "t4", fp16=True, bf16=False)
    assert code == 0
    for part in (
        "Fits t4",
        "KV cache",
        "iteration-0 to 1, each",
        "Disk",
        "assumed",
        "'nobody/nothing'",
        "627 training prompts",
        "13 held-out prompts",
        "`scorer`",
        "`degeneration_stop`",
        "`test_name`",
        "`retain_name`",
    ):
        assert part in shown, shown


def test_a_criterion_that_can_not_be_read_is_found_by_the_plan(planned, tmp_path):
    """So it is before a run is launched."""
    file = tmp_path / "rubric.yaml"
    file.write_text("criteria: [{name: short, words: {maximum: 9}}]", encoding="utf-8")
    code, shown = planned("--gpu", "h100", scorer="rubric", rubric=str(file))
    assert code == 2
    assert names(shown, "rubric.yaml", "'short'", "'maximum'", "'max'")
    file.write_text("criteria: [{name: short, words: {max: 9}}]", encoding="utf-8")
    code, shown = planned("--gpu", "h100", scorer="rubric", rubric=str(file))
    assert code == 0
    assert names(shown, "rubric", "`evaluate_greedy`")


def test_without_a_gpu_all_known_ones_are_shown(planned):
    code, shown = planned()
    assert code == 0
    assert all(name in shown for name in devices.DEVICES)
    assert "no bfloat16" in shown


def test_the_engine_is_that_which_the_run_would_choose_or_has_kept(planned, tmp_path, monkeypatch):
    """The run directory is found as `spin-trl run` finds it."""
    monkeypatch.chdir(tmp_path)
    given = {"engine": "auto", "vllm_command": ["no-such-vllm"]}
    code, shown = planned("--gpu", "h100", **given)
    assert code == 0
    assert names(" ".join(shown.split()), "`engine: auto`", "transformers", "`no-such-vllm --version`")
    directory = RunDirectory("runs/planned")
    directory.claim("continue")
    directory.own("recipe.yaml").write_text("engine: vllm\n", encoding="utf-8")
    Journal(directory.own("journal.jsonl")).append(Step.PREPARE, DATA, rows=1, dataset="d")
    code, shown = planned("--gpu", "h100", **given)
    assert code == 0
    assert "tokens per second, stated" in " ".join(shown.split())


def test_bfloat16_on_a_t4_is_refused(planned):
    code, shown = planned("--gpu", "t4")
    assert code == 1
    assert names(shown, "t4", "bfloat16", "`bf16: false`", "`fp16: true`")


def test_an_unknown_gpu_is_refused_with_those_that_are_known(planned):
    code, shown = planned("--gpu", "a1000")
    assert code == 2
    assert names(shown, "`--gpu`", "'a1000'", "rtx-4090")


@pytest.mark.parametrize(("name", "known"), [("A100_80GB", "a100-80"), ("RTX 4090", "rtx-4090"), ("h100", "h100")])
def test_gpus_are_known_in_other_spellings(name, known):
    assert devices.device_named(name).name == known


def test_a_model_without_a_config_is_refused(tmp_path, capsys):
    code = main(["plan", recipe(tmp_path, "nobody/no-model"), "--gpu", "h100"])
    assert code == 2
    assert names(capsys.readouterr().err, "'nobody/no-model'", "config.json")


def test_a_hub_name_is_found_in_the_cache(tmp_path, capsys, monkeypatch):
    """The configuration and tokenizer are found; the weights next to them are not read."""
    import huggingface_hub.constants

    cache = tiny.hub_cache(tmp_path / "hub", {"org/cached": "qwen2"})
    for weights in cache.rglob("*.safetensors"):
        weights.unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    data = tiny.write_jsonl(tmp_path / "train.jsonl", tiny.sft(20))
    code = main(["plan", recipe(tmp_path, "org/cached", dataset_name=str(data), max_rows=None), "--gpu", "h100"])
    shown = capsys.readouterr().out
    assert code == 0
    assert "counted on 20 of 20 rows" in " ".join(shown.split())


def test_what_does_not_fit_is_told_what_to_change(planned, monkeypatch):
    """The exit code is 1."""
    monkeypatch.setitem(devices.DEVICES, "tiny", devices.Device("tiny", 0.6, 10, 100))
    change = Advice(("lora_target_modules",), "lora_target_modules: [all-linear]", "something", 2**29, True)
    monkeypatch.setattr("spin_trl.plan.planning.advise", lambda plan, limit: ([change], None))
    code, shown = planned("--gpu", "tiny")
    assert code == 1
    assert "Does not fit tiny" in shown
    assert "lora_target_modules: [all-linear]" in shown
    assert names(shown.rpartition("spin-trl: ")[2], "tiny")


@pytest.mark.slow
def test_advice_is_planned_again(tmp_path):
    """Each change needs less memory than the one before it, and the last one fits."""
    config = small(hidden_size=256, intermediate_size=1024, num_hidden_layers=4)
    path = recipe(
        tmp_path,
        folder(tmp_path / "model", config),
        activation_checkpointing=False,
        per_device_train_batch_size=64,
        generation_batch_size=1,
    )
    found = make_plan(path, [], Wishes(), on_gpu=True)
    limit = 0.9 * found.peak.total
    changes, _ = advise(found, limit)
    peaks = [found.peak.total, *(one.peak for one in changes)]
    assert peaks == sorted(peaks, reverse=True)
    assert changes[0].change == "activation_checkpointing: true"
    assert changes[-1].fits
    assert peaks[-1] <= limit


@pytest.mark.slow
def test_a_start_from_scratch_is_planned_with_its_own_data(capsys, monkeypatch):
    """For the quickstart, the tokenizer is built, the rows are counted, and θ_0's training is a phase."""
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["plan", "quickstart"]) == 0
    shown = capsys.readouterr().out
    assert "225,504 parameters" in shown
    assert "start" in shown
    assert "1,000 training prompts, 1,000 held out" in shown


def test_planning_writes_nothing(planned, tmp_path):
    planned("--gpu", "h100")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "planned.yaml"]
    assert json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))["model_type"] == "qwen2"


def test_a_dataset_of_the_hub_is_looked_for_in_the_cache_alone(planned, monkeypatch):
    """A plan must not start with a download of gigabytes."""
    import datasets
    import huggingface_hub.constants

    seen = []

    def load_dataset_builder(*args, **kwargs):
        seen.append((datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE))
        raise ConnectionError

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("spin_trl.data.reading.folder.load_dataset_builder", load_dataset_builder)
    assert planned("--gpu", "h100")[0] == 0
    assert seen == [(True, True)]
    assert not datasets.config.HF_HUB_OFFLINE


def test_an_adapter_whose_configuration_is_damaged_is_named(planned, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter_config.json").write_text("{", encoding="utf-8")
    code, shown = planned("--gpu", "t4")
    assert code == 2
    assert names(shown, "adapter_config.json", "JSONDecodeError")
