"""With SFT first, the given model is the base, its best point is the start, and self-play continues from there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback

import runs
import tiny
from messages import refused
from runs import build, entry, journal, steps, weights
from spin_trl.cli import main
from spin_trl.errors import RecipeError, RunDirectoryError
from spin_trl.play import supervise
from spin_trl.report.record import read_record
from spin_trl.report.supervised import sft_in_words
from spin_trl.run.directory import RunDirectory

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
SFT: dict[str, Any] = {"start": "sft", "num_iterations": 1, "lr_scheduler_type": "constant"}
ARGS = {"learning_rate": 1e-2, "num_train_epochs": 3, "lr_scheduler_type": "constant"}


def sft(model: Any, run_dir: str | Path = "run", **kwargs: Any) -> Any:
    return build(model, run_dir, **{**SFT, "sft_args": ARGS, **kwargs})


def test_the_start_is_the_base_after_sft(llama_folder: Path) -> None:
    """Both are measured. The NLL that chose the start equals the one in its figures."""
    result = sft(llama_folder).run()
    order = [
        ("prepare", "data"),
        ("evaluate", "base"),
        ("train", "start"),
        ("evaluate", "start"),
        ("generate", "iteration-0"),
        ("train", "iteration-0"),
        ("evaluate", "iteration-0"),
    ]
    assert [step for step in steps() if step[0] in ("prepare", "evaluate", "train", "generate")] == order
    trained = entry("train", "start")
    assert (trained["steps"], trained["rows"]) == (9, 12)
    assert [step for step, _, _ in trained["points"]] == [3, 6, 9]
    nll = {step: value for step, _, value in trained["points"]}
    assert nll[trained["best_step"]] == min(nll.values()) == pytest.approx(result.figures["start"]["nll"], rel=1e-5)
    assert result.figures["base"]["nll"] > result.figures["start"]["nll"]
    assert not Path("run/start/train").exists()
    assert not Path("run/base/model").exists()
    first = entry("train", "iteration-0")["first"]
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0
    rows, answers = load_from_disk("run/data/train"), runs.answers("run", "iteration-0")
    prompts, reals = (sum(map(len, rows[column])) for column in ("prompt_ids", "real_ids"))
    assert trained["compute"] == {"trained": 3 * (prompts + reals)}
    assert entry("generate", "iteration-0")["compute"] == {
        "prefilled": prompts,
        "sampled": sum(map(len, answers.values())),
    }
    (said,) = sft_in_words(read_record(RunDirectory("run")))
    assert all(part in said for part in ("12 rows", "step 9 of 9"))
    assert sft(llama_folder).run().figures == result.figures  # and it is played only once
    assert steps().count(("train", "start")) == 1


def test_another_base_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    sft(llama_folder).run_phase("start", 0)
    with refused(RunDirectoryError, "model"):
        sft(tiny.save(tmp_path / "another", tiny.model(seed=7))).run()


@pytest.mark.slow
@pytest.mark.parametrize("of_sft", [False, True])
@pytest.mark.parametrize("of_play", [False, True])
def test_every_combination_of_adapters(llama_folder: Path, of_sft: bool, of_play: bool) -> None:
    """Self-play starts from the result of SFT: the opponent is the SFT adapter, not the base, and every log-ratio
    starts at 0.
    """
    peft = {name: LoraConfig(**LORA) for name, on in (("peft_config", of_play), ("sft_peft_config", of_sft)) if on}
    sft(llama_folder, baseline="sft", sft_use_peft=of_sft, **peft).run()
    first = entry("train", "iteration-0")["first"]
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0
    start, played = Path("run/start/model"), Path("run/iteration-0/model")
    assert (start / "adapter_config.json").exists() == (of_sft and of_play)
    assert (played / "adapter_config.json").exists() == of_play
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    of_start = (
        PeftModel.from_pretrained(model, str(start)).merge_and_unload()
        if of_sft and of_play
        else AutoModelForCausalLM.from_pretrained(start)
    )
    row = load_from_disk("run/data/train")[0]
    logps = [runs.logp(one, row["prompt_ids"], row["real_ids"]) for one in (base, of_start)]
    assert abs(logps[0] - logps[1]) > 1e-2
    named = json.loads((played / "adapter_config.json").read_text(encoding="utf-8")) if of_play else {}
    expected = str(llama_folder) if of_sft else str(start.resolve())
    assert named.get("base_model_name_or_path", expected) == expected
    assert entry("train", "baseline/sft/iteration-0")["steps"] == entry("train", "iteration-0")["steps"]


def test_adapters_that_do_not_fit_are_refused(llama_folder: Path) -> None:
    with refused(RecipeError, "`sft_use_peft`", "`sft_peft_config`"):
        sft(llama_folder, sft_use_peft=True)
    with refused(RecipeError, "`start: sft`", "`model_name_or_path`"):
        sft(None)
    with refused(RecipeError, "`sft_learning_rate`", "`start: sft`"):
        build(llama_folder, sft_args={"learning_rate": 1e-3})


def test_a_head_that_sft_can_not_adapt_is_refused_before_anything_is_written(llama_folder: Path) -> None:
    """SFTTrainer multiplies by the output layer's weights itself, so it refuses an adapter there."""
    with refused(RecipeError, "`lm_head`"):
        sft(llama_folder, peft_config=LoraConfig(**{**LORA, "target_modules": ["lm_head"]})).run()
    assert not Path("run/journal.jsonl").exists()


class Interrupt(TrainerCallback):
    """Ends training after a number of saved checkpoints."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        saved = len(list(Path(args.output_dir).glob("checkpoint-*/checkpoint.json")))
        self.left -= bool(saved)
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True])
def test_an_interrupted_sft_stops_at_the_same_point(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    """With patience, and a learning rate that overshoots, the measurements, the best point and the bytes are the same."""
    options = {"sft_args": {**ARGS, "learning_rate": 0.2, "num_train_epochs": 20, "eval_steps": 2}, "sft_patience": 3}
    sft(llama_folder, "whole", **options).run_phase("start", 0)
    whole = entry("train", "start", "whole")
    assert whole["best_step"] < whole["steps"] < 60
    original = supervise.train_supervised

    def interrupted(model: Any, tokenizer: Any, rows: Any, args: Any, callbacks: Any, *more: Any) -> Any:
        return original(model, tokenizer, rows, args, [*callbacks, Interrupt(6)], *more)

    with monkeypatch.context() as patch:
        patch.setattr(supervise, "train_supervised", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sft(llama_folder, **options).run_phase("start", 0)
    assert any(Path("run/start/train").glob("checkpoint-*"))
    place = "run"
    if moved:
        place = "elsewhere"
        shutil.move("run", place)
    sft(llama_folder, place, **options).run_phase("start", 0)
    resumed = entry("train", "start", place)
    assert [resumed[name] for name in ("points", "best_step", "steps")] == [
        whole[name] for name in ("points", "best_step", "steps")
    ]
    assert weights(f"{place}/start/model") == weights("whole/start/model")


def test_nothing_is_trained_on_generations_that_equal_the_real_responses(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with its reason, and delivers what it has; with a higher limit, it resumes."""
    identical = {"responses": 12, "identical": 12}
    monkeypatch.setattr("spin_trl.play.generate._identical", lambda *of: identical)
    result = build(llama_folder, num_iterations=1).run()
    assert result.best_stage == "start"
    assert result.stopped is not None
    assert all(part in result.stopped for part in ("12 of 12", "`identical_stop`", "`sft_share`"))
    assert ("train", "iteration-0") not in steps()
    assert journal()[-1]["decision"] == "not trained"
    record = read_record(RunDirectory("run"))
    assert record.is_finished
    assert record.stopped["reason"] == result.stopped
    with refused(RunDirectoryError, "`identical_stop`"):
        build(llama_folder, num_iterations=1).run_phase("train", 0)
    again = build(llama_folder, num_iterations=1, identical_stop=1.0).run()
    assert ("train", "iteration-0") in steps()
    assert again.stopped is None


@pytest.mark.slow
def test_self_play_on_prompts_that_sft_has_not_seen(llama_folder: Path) -> None:
    sft(llama_folder, sft_share=0.25, self_play_prompts="unseen", baseline="sft").run()
    rows = load_from_disk("run/data/train")
    played = {key for key, _ in runs.answers("run", "iteration-0")}
    assert len(rows) == 12
    assert len(played) == 9
    assert entry("train", "start")["rows"] == 3
    assert entry("train", "iteration-0")["pairs"]["total"] == 9


@pytest.mark.slow
def test_a_given_object_is_the_base(llama_folder: Path) -> None:
    """It is saved as `base`, and the run resumes without it."""
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    sft(model).run()
    assert weights("run/base/model") != weights("run/start/model")
    assert sft(model).run().figures["base"]


@pytest.mark.slow
def test_sft_first_from_a_recipe(llama_folder: Path, tmp_path: Path) -> None:
    """The report and the plan take it into account, and `use_peft` need not apply to SFT."""
    recipe = runs.recipe(
        tmp_path,
        llama_folder,
        **SFT,
        sft_learning_rate=1e-2,
        sft_use_peft=True,
        lora_r=2,
        lora_target_modules=["q_proj"],
    )
    assert main(["run", str(recipe)]) == 0
    folder = tmp_path / "run"
    assert not (folder / "start/model/adapter_config.json").exists()
    assert "base" in (folder / "table.txt").read_text(encoding="utf-8")
    assert "SFT" in (folder / "report.html").read_text(encoding="utf-8")
    assert main(["plan", str(recipe)]) == 0
