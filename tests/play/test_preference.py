"""With DPO on top, finished models of a run are trained further on preference pairs, as stages of the run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer

import tiny
from messages import names, refused
from runs import ROWS, build, contents, entry, journal, logp, steps, weights
from spin_trl.errors import DataError, RecipeError, RunDirectoryError
from spin_trl.hub.cards import card_of, run_facts
from spin_trl.hub.facts import Names
from spin_trl.play import preference
from spin_trl.play.loop import SelfPlay
from spin_trl.report.charts import series
from spin_trl.report.record import read_record
from spin_trl.report.tables import costs, facts, standings
from spin_trl.report.verdict import remarks, verdict
from spin_trl.run.directory import RunDirectory

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
DPO = {"learning_rate": 1e-2, "num_train_epochs": 1, "lr_scheduler_type": "constant"}
PAIRS = 24


def session(model: Any, run_dir: str | Path = "run", **kwargs: Any) -> SelfPlay:
    """Play a run of one iteration. Three of its 15 prompts are held out, and their pairs must be left out, too."""
    known = {"num_iterations": 1, "then_dpo": ["best", "start"], "dpo_args": DPO}
    return build(model, run_dir, **{**known, "dpo_dataset": tiny.preference(PAIRS), **kwargs})


@pytest.fixture(scope="module")
def alone(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run without DPO."""
    folder = tmp_path_factory.mktemp("a run") / "run"
    session(llama_folder, folder, then_dpo=None, dpo_args=None, dpo_dataset=None).run()
    return folder


@pytest.fixture(scope="module")
def topped(llama_folder: Path, alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run, to which DPO was added after it had finished."""
    folder = tmp_path_factory.mktemp("with DPO") / "run"
    shutil.copytree(alone, folder, symlinks=True)
    session(llama_folder, folder).run()
    return folder


def test_dpo_is_added_to_a_finished_run(alone: Path, topped: Path, llama_folder: Path) -> None:
    """Nothing is played again; `best` keeps the name of its iteration; a second call does nothing."""
    before, after = steps(alone), steps(topped)
    assert after[: len(before)] == before
    made = [(phase, f"dpo/{of}") for of in ("iteration-0", "start") for phase in ("train", "evaluate", "gate")]
    assert after[len(before) :] == [("prepare", "dpo"), *made]
    result = session(llama_folder, topped).run()
    assert steps(topped) == after
    assert [stage for stage in result.figures if stage.startswith("dpo/")] == ["dpo/start", "dpo/iteration-0"]
    nll = {stage: found["nll"] for stage, found in result.figures.items()}
    assert result.best_stage == min(nll, key=lambda stage: nll[stage])
    assert Path(result.best_model) == topped / result.best_stage / "model"
    assert not list(topped.glob("dpo/*/train"))


def test_pairs_of_prompts_that_are_held_out_are_left_out(topped: Path, llama_folder: Path) -> None:
    rows = load_from_disk(str(topped / "data/dpo"))
    held_out = set(load_from_disk(str(topped / "data/held-out"))["prompt"])
    assert len(held_out) == 3
    assert set(rows["prompt"]) == set(tiny.preference(PAIRS)["prompt"]) - held_out
    prepared = entry("prepare", "dpo", topped)
    assert (prepared["rows"], prepared["overlap"]) == (PAIRS - 3, 3)
    assert any("3 rows" in remark for remark in prepared["remarks"])


def test_the_reference_is_the_model_that_dpo_starts_from(topped: Path, llama_folder: Path) -> None:
    """All log-ratios are 0 at the first step, and DPOTrainer itself, given that model, ends with the same weights."""
    for of in ("iteration-0", "start"):
        first = entry("train", f"dpo/{of}", topped)["first"]
        # Batches of other shapes may differ in the last digit of a log-probability.
        assert [first["rewards/chosen"], first["rewards/rejected"]] == pytest.approx([0, 0], abs=1e-6)
    folder = topped / "iteration-0/model"
    args = DPOConfig(
        "there",
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=4,
        activation_checkpointing=False,
        max_length=64,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        precompute_ref_log_probs=True,
        **DPO,
    )
    rows = load_from_disk(str(topped / "data/dpo"))
    trainer = DPOTrainer(str(folder), args=args, train_dataset=rows, processing_class=tiny.tokenizer())
    trainer.train()
    theirs, ours = trainer.model.state_dict(), load_file(topped / "dpo/iteration-0/model/model.safetensors")
    assert max(float((theirs[name].cpu() - tensor).abs().max()) for name, tensor in ours.items()) < 1e-5


def test_compute_by_hand(topped: Path) -> None:
    """21 pairs in batches of 4 are 6 steps; a pair's prompt counts once, and the reference runs over all of it once."""
    tokenizer, tokens = tiny.tokenizer(), 0
    for row in load_from_disk(str(topped / "data/dpo")):
        ids = [tokenizer(row["prompt"] + row[of] + tokenizer.eos_token)["input_ids"] for of in ("chosen", "rejected")]
        tokens += sum(map(len, ids)) - len(tokenizer(row["prompt"])["input_ids"])
    trained = entry("train", "dpo/iteration-0", topped)
    assert (trained["steps"], trained["preferences"]) == (6, PAIRS - 3)
    assert trained["compute"] == {"trained": tokens, "scored": tokens}


def test_shown_wherever_stages_are(topped: Path, alone: Path) -> None:
    directory = RunDirectory(topped)
    record = read_record(directory)
    labels = [row.label.replace("\u00a0", " ") for row in standings(record).rows]
    assert labels[-2:] == ["DPO on the start", "DPO on iteration 0"]
    opponents = [record.opponent(stage) for stage in record.after_dpo]
    assert [stage and stage.name for stage in opponents] == ["start", "iteration-0"]
    assert "DPO on iteration 0" in series(record, "nll")
    assert [len(points) for name, points in series(record, "nll").items() if name.startswith("DPO")] == [2, 2]
    assert "dpo/" not in str(record.arms)
    assert "the start, iteration 0" in facts(record)["DPO on top"]
    assert len(costs(record).rows) == 5
    assert sum("DPO on" in remark for remark in remarks(record)) == 2
    assert (record.best in {stage.name for stage in record.after_dpo}) == ("DPO" in verdict(record))
    text = (topped / "table.txt").read_text(encoding="utf-8")
    assert "DPO on start" in text
    assert "DPO" not in (alone / "table.txt").read_text(encoding="utf-8")
    page = (topped / "report.html").read_text(encoding="utf-8")
    assert "DPO on iteration 0" in page
    for stage in record.after_dpo:
        card = str(card_of(directory, run_facts(directory, record, Names()), stage))
        assert "21 preference pairs" in card
        assert card == (directory.model(stage.name) / "README.md").read_text(encoding="utf-8")


def test_what_was_trained_does_not_change(topped: Path, llama_folder: Path, tmp_path: Path) -> None:
    """Other pairs or other DPO settings are refused once a model was trained, and so is another stage's loss."""
    with refused(RunDirectoryError, "dpo_args"):
        session(llama_folder, topped, dpo_args={**DPO, "beta": 0.5}).run()
    with refused(DataError, "`dpo_name`", "dpo/start", "dpo/iteration-0"):
        session(llama_folder, topped, dpo_dataset=tiny.preference(PAIRS - 1)).run()
    fewer = session(llama_folder, topped, then_dpo="start").run()  # the choice of stages is not one of these
    assert "dpo/iteration-0" in fewer.figures


@pytest.mark.slow
def test_until_then_everything_may_change(alone: Path, llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(alone, folder, symlinks=True)
    session(llama_folder, folder, then_dpo=["start"], dpo_dataset=tiny.preference(4)).run_phase("evaluate", 0)
    assert entry("prepare", "dpo", folder)["rows"] < 5
    found = session(llama_folder, folder, then_dpo=["start"], dpo_args={**DPO, "max_steps": 1}, dpo_max=10).run()
    assert entry("train", "dpo/start", folder)["steps"] == 1
    assert [line["rows"] + line["overlap"] for line in journal(folder) if line["stage"] == "dpo"] == [4, 10]
    assert "dpo/start" in found.figures


@pytest.mark.parametrize(
    ("given", "problem", "named"),
    [
        ({"dpo_dataset": None}, RecipeError, ("`then_dpo`", "`dpo_name`")),
        ({"then_dpo": None}, RecipeError, ("`dpo_name`", "`then_dpo`")),
        ({"then_dpo": ["base"]}, RecipeError, ("`then_dpo: base`", "`start: sft`")),
        ({"then_dpo": ["iteration-1"]}, RecipeError, ("`then_dpo: iteration-1`", "iteration-0")),
        ({"dpo_dataset": tiny.sft(4)}, DataError, ("`chosen`", "`rejected`")),
    ],
)
def test_what_can_not_be_played_is_refused_at_the_start(
    llama_folder: Path, given: dict[str, Any], problem: type[Exception], named: tuple[str, ...]
) -> None:
    with refused(problem, *named):
        session(llama_folder, **given).run()
    assert not Path("run/journal.jsonl").exists()


def test_pairs_without_a_preference_are_refused_before_anything_is_generated(llama_folder: Path) -> None:
    pairs = [{**row, "rejected": row["chosen"]} for row in tiny.preference(4)]
    with refused(DataError, "`chosen`", "`rejected`", 4):
        session(llama_folder, dpo_dataset=pairs).run()
    assert steps() == [("prepare", "data")]
    with refused(DataError, "`dpo_name`", "3 rows"):
        held_out = set(load_from_disk("run/data/held-out")["prompt"])
        known = [row for row in tiny.preference(ROWS) if row["prompt"] in held_out]
        session(llama_folder, dpo_dataset=Dataset.from_list(known)).run()


def test_a_phase_by_hand_needs_the_iterations(llama_folder: Path) -> None:
    with refused(RunDirectoryError, "evaluate", "iteration-0"):
        session(llama_folder).run_phase("dpo", 0)


@pytest.mark.slow
def test_a_result_that_is_worse_is_not_delivered(alone: Path, llama_folder: Path, tmp_path: Path) -> None:
    """A learning rate of 3 ruins the model: the run reports it and delivers the same model as without DPO."""
    folder = tmp_path / "copy"
    shutil.copytree(alone, folder, symlinks=True)
    result = session(llama_folder, folder, then_dpo="best", dpo_args={**DPO, "learning_rate": 3}).run()
    assert result.figures["dpo/iteration-0"]["nll"] > result.figures["iteration-0"]["nll"]
    assert result.best_stage == "iteration-0"
    decided = entry("gate", "dpo/iteration-0", folder)
    assert (decided["decision"], decided["opponent"]) == ("worse", "iteration-0")
    assert names(decided["reason"], "dpo/iteration-0", "nll")
    assert decided["reason"] in remarks(read_record(RunDirectory(folder)))
    assert session(llama_folder, folder, then_dpo="best", dpo_args={**DPO, "learning_rate": 3}).run().best_stage == (
        "iteration-0"
    )


class Interrupt(TrainerCallback):
    """Ends training after the first saved checkpoint."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if list(Path(args.output_dir).glob("checkpoint-*/checkpoint.json")):
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("peft_config", [None, LoraConfig(**LORA)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    alone: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, peft_config: Any
) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "peft_config": peft_config}
    session(llama_folder, "whole", **options).run()
    real = preference._dpo_trainer

    def stopping(*arguments: Any) -> Any:
        trainer = real(*arguments)
        trainer.add_callback(Interrupt())
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(preference, "_dpo_trainer", stopping)
        with pytest.raises(KeyboardInterrupt):
            session(llama_folder, "run", **options).run()
    assert list(Path("run/dpo/iteration-0/train").glob("checkpoint-2/checkpoint.json"))
    session(llama_folder, "run", **options).run()
    for of in ("iteration-0", "start"):
        one, other = (
            contents(Path(run, f"dpo/{of}"), ignore=("README.md", "training_args.bin")) for run in ("whole", "run")
        )
        assert one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name] and not name.endswith("adapter_config.json")] == []
    best = [json.loads(Path(run, "best.json").read_text(encoding="utf-8"))["stage"] for run in ("whole", "run")]
    assert best[0] == best[1]


@pytest.mark.slow
def test_a_damaged_result_is_made_again(topped: Path, llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(topped, folder, symlinks=True)
    before = weights(folder / "dpo/start/model")
    (folder / "dpo/start/model/model.safetensors").write_bytes(b"")
    shutil.rmtree(folder / "data/dpo")
    session(llama_folder, folder).run()
    assert weights(folder / "dpo/start/model") == before
    assert [line["stage"] for line in journal(folder) if line["phase"] == "lost"] == ["dpo", "dpo/start"]


@pytest.mark.slow
@pytest.mark.parametrize("of_sft", [False, True])
def test_the_reference_of_an_adapter_is_a_frozen_copy_of_it(llama_folder: Path, of_sft: bool) -> None:
    """With LoRA, and with LoRA after LoRA SFT, log-ratios are 0 against the stage that DPO starts from, not the base.
    The folder holds only the policy's adapter.
    """
    options: dict[str, Any] = {"peft_config": LoraConfig(**LORA), "then_dpo": ["start", "best"]}
    if of_sft:
        options |= {"start": "sft", "sft_args": {"learning_rate": 1e-2}, "then_dpo": ["base", "start", "best"]}
    session(llama_folder, **options, baseline=None).run()
    stages = [f"dpo/{of}" for of in (["base"] if of_sft else []) + ["start", "iteration-0"]]
    row = load_from_disk("run/data/train")[0]
    pair = row["prompt_ids"], row["real_ids"]
    base = logp(AutoModelForCausalLM.from_pretrained(llama_folder), *pair)
    for stage in stages:
        first = entry("train", stage)["first"]
        assert first["rewards/chosen"] == first["rewards/rejected"] == 0, stage
        folder, origin = Path("run", stage, "model"), Path("run", stage.removeprefix("dpo/"), "model")
        assert {path.name for path in folder.glob("**/*.safetensors")} == {"adapter_model.safetensors"}
        assert not any("ref" in name.split(".") for name in load_file(folder / "adapter_model.safetensors"))
        named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        assert named["base_model_name_or_path"] == str(llama_folder)
        if origin.is_dir():
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), str(origin))
            assert abs(logp(model, *pair) - base) > 1e-3  # else it would start at the base as well


@pytest.mark.slow
def test_an_adapter_on_the_base_is_not_loaded_on_the_start(llama_folder: Path) -> None:
    """SFT trains all weights and self-play an adapter, so DPO on the base gives an adapter on the given model, not on
    the start.
    """
    options: dict[str, Any] = {"start": "sft", "sft_args": {"learning_rate": 1e-2}, "sft_use_peft": False}
    session(llama_folder, **options, peft_config=LoraConfig(**LORA), then_dpo=["base", "start"]).run()
    row = load_from_disk("run/data/held-out")[0]
    pair = row["prompt_ids"], row["real_ids"]
    for of, below in (("base", llama_folder), ("start", Path("run/start/model"))):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(below), f"run/dpo/{of}/model")
        measured = json.loads(Path(f"run/dpo/{of}/held-out/logps.json").read_text(encoding="utf-8"))
        assert measured[row["key"]]["real"] == pytest.approx(logp(model, *pair), abs=1e-4)


@pytest.mark.slow
def test_it_is_measured_on_the_test_set_and_for_retention(alone: Path, llama_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(alone, folder, symlinks=True)
    more = tiny.sft(ROWS + 4).select(range(ROWS, ROWS + 4))
    others = tiny.sft(ROWS + 8).select(range(ROWS + 4, ROWS + 8))
    result = session(llama_folder, folder, test_dataset=more, retain_dataset=others, then_dpo="best").run()
    assert "dpo/iteration-0" in result.test_figures
    assert "retention/nll" in result.figures["dpo/iteration-0"]
    prompts = set(load_from_disk(str(folder / "data/dpo"))["prompt"])
    assert not prompts & {*more["prompt"], *load_from_disk(str(folder / "data/held-out"))["prompt"]}
    assert steps(folder)[-1] == ("test", "dpo/iteration-0")
