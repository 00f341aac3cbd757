"""The train phase runs four iterations with full weights, LoRA in both ways, and QLoRA, each starting at its opponent,
the previous model.
"""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny
from messages import names, refused
from runs import answers, build, entry, logp, tensors, weights, without_checksums
from spin_trl.errors import GenerationsError, OpponentError, RecipeError
from spin_trl.play import train
from spin_trl.training.trainer import SPINTrainer

LN2 = math.log(2)
ITERATIONS = 4
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}

AT_ZERO = {"full": 2 * LN2, "lora": LN2}
"""Loss of each way when every log-ratio is 0."""

WAYS: dict[str, dict[str, Any]] = {
    "full": {"loss_type": "space"},
    "lora": {"lora": True},
    "merged lora": {"lora": True, "lora_opponent": "merge", "loss_type": "space"},
    "qlora": {"lora": True, "quantized": True},
    "merged qlora": {"lora": True, "quantized": True, "lora_opponent": "merge"},
}


def play(model: Path, way: str, run_dir: str = "run", **settings: Any) -> None:
    """Play a run in one of the ways, with greedy answers, so that they can be computed by hand."""
    chosen = {**WAYS[way], **settings}
    if chosen.pop("lora", False):
        chosen["peft_config"] = LoraConfig(**LORA)
    if chosen.pop("quantized", False):
        chosen["quantization_config"] = BitsAndBytesConfig(**NF4)
        chosen.setdefault("learning_rate", 0.1)  # bfloat16 adapters swallow smaller steps
    build(model, run_dir, **{"num_iterations": ITERATIONS, "temperature": 0.0, **chosen}).run()


def load(folder: Path, base: Path, way: str) -> Any:
    """Load a model of a run with transformers and peft alone."""
    options = {"quantization_config": BitsAndBytesConfig(**NF4)} if "qlora" in way else {}
    if (folder / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, **options), folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # the kernel needs widths that the tiny model does not have
    return model.eval()


def greedy(model: Any, prompt: list[int], most: int) -> list[int]:
    """Return the most likely continuation, token by token, without a cache and without `generate`."""
    ids = list(prompt)
    for _ in range(most):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in (0, 2):  # the two ends of tiny's vocabulary
            break
    return ids[len(prompt) :]


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the state of every trainer before its first step: its rows, generations and adapters."""
    seen: list[dict[str, Any]] = []
    original = SPINTrainer.train

    def train(self: SPINTrainer, *args: Any, **kwargs: Any) -> Any:
        if type(self) is not SPINTrainer:  # the rehearsal that precedes a run
            return original(self, *args, **kwargs)
        generations = self.data_collator.generations
        seen.append(
            {
                "rows": [
                    {**row, "generated": generations[(row["key"], row["iteration"], row["sample"])]}
                    for row in self.train_dataset
                ],
                "adapters": {
                    name: parameter.detach().clone()
                    for name, parameter in self.model.named_parameters()
                    if "lora_" in name
                },
                "ref_model": self.ref_model,
            }
        )
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SPINTrainer, "train", train)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS))
def test_four_iterations_start_at_their_opponents(
    way: str, llama_folder: Path, trainers: list[dict[str, Any]]
) -> None:
    """The first loss is the objective's value at zero, all margins are 0, and the opponent is the previous model.

    Models that transformers and peft load from the run directory show that the opponent generated the answers and is
    the reference: their greedy answers are the generations, their log-probabilities (or adapter) the reference.
    """
    play(llama_folder, way)
    at_zero = 2 * LN2 if WAYS[way].get("loss_type") == "space" else LN2
    for t in range(ITERATIONS):
        trained = entry("train", f"iteration-{t}")
        assert trained["first"]["loss"] == pytest.approx(at_zero, abs=1e-5)
        for name in ("rewards/margins", "rewards/chosen", "rewards/rejected"):
            assert trained["first"][name] == pytest.approx(0.0, abs=1e-5 if way == "full" else 0.0)
        assert abs(trained["last"]["loss"] - at_zero) > 1e-4

        before = llama_folder if t == 0 else Path(f"run/iteration-{t - 1}/model")
        opponent = load(before, llama_folder, way)
        seen = trainers[t]
        assert seen["ref_model"] is None
        assert len(seen["rows"]) == 12
        for row in seen["rows"][:4]:
            assert row["generated"] == greedy(opponent, row["prompt_ids"], 8)
            if way == "full":
                assert row["ref_chosen_logps"] == pytest.approx(
                    logp(opponent, row["prompt_ids"], row["real_ids"]), abs=1e-3
                )
                assert row["ref_rejected_logps"] == pytest.approx(
                    logp(opponent, row["prompt_ids"], row["generated"]), abs=1e-3
                )
        if way in ("lora", "qlora") and t > 0:
            saved = tensors(before)
            frozen = {name: tensor for name, tensor in seen["adapters"].items() if ".ref." in name}
            assert len(frozen) == len(saved)
            for name, tensor in frozen.items():
                assert torch.equal(tensor.float(), saved[name.replace(".ref.", ".")].float())
    assert len({weights(f"run/iteration-{t}/model") for t in range(ITERATIONS)}) == ITERATIONS


@pytest.mark.slow
@pytest.mark.parametrize("way", list(WAYS))
def test_what_is_saved_is_the_policy_and_nothing_else(way: str, llama_folder: Path) -> None:
    """These are full weights, the one trained adapter, or merged weights, but never the frozen adapter, in models and
    checkpoints.
    """
    saved: list[set[str]] = []
    original = train.SPINTrainer._save_checkpoint

    def save(self: Any, model: Any, trial: Any) -> None:
        original(self, model, trial)
        (newest,) = Path(self.args.output_dir).glob(f"checkpoint-{self.state.global_step}")
        saved.append(set(tensors(newest)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.SPINTrainer, "_save_checkpoint", save)
        play(llama_folder, way, num_iterations=2, save_strategy="steps", save_steps=1)
    assert len(saved) == 6
    for kept in (*saved, *(set(tensors(f"run/iteration-{t}/model")) for t in (0, 1))):
        assert not [name for name in kept if ".ref." in name]
    for t in (0, 1):
        folder = Path(f"run/iteration-{t}/model")
        assert not (folder / "ref").exists()
        is_adapter = way in ("lora", "qlora")
        assert (folder / "adapter_config.json").exists() is is_adapter
        assert (folder / "adapter_model.safetensors").exists() is is_adapter
        assert (folder / "model.safetensors").exists() is not is_adapter


def test_merged_and_frozen_adapters_begin_alike(llama_folder: Path) -> None:
    """Iteration 0 is the same either way; a merged model needs no base, and the next adapter starts from it."""
    play(llama_folder, "lora", "frozen", num_iterations=1)
    play(llama_folder, "lora", "merged", num_iterations=1, lora_opponent="merge")
    frozen = load(Path("frozen/iteration-0/model"), llama_folder, "lora").merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained("merged/iteration-0/model")
    ids = torch.arange(5, 25).unsqueeze(0)
    torch.testing.assert_close(merged(ids).logits, frozen(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_cards_of_later_iterations_name_the_models_origin(llama_folder: Path, tmp_path: Path) -> None:
    """TRL alone would write that iteration 1 is fine-tuned from None."""
    start = tmp_path / "start"
    shutil.copytree(llama_folder, start)
    (start / "README.md").write_text("---\nbase_model: org/start\n---\n# Start\n", encoding="utf-8")
    for way in ("full", "lora"):
        play(start, way, way, num_iterations=2)
        for t in (0, 1):
            card = ModelCard.load(f"{way}/iteration-{t}/model/README.md")
            assert card.data.base_model == "org/start"
            assert f"# {way}, iteration {t}\n" in card.text
            assert "None" not in card.content
            assert str(tmp_path) not in card.content


def test_a_violated_contract_stops_the_run(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights changed behind the trainer's back end the phase with OpponentError; nothing is recorded as trained."""
    original = train.SPINTrainer.train

    def careless(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            self.model.model.layers[0].self_attn.q_proj.weight.add_(0.3)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(train.SPINTrainer, "train", careless)
        with refused(OpponentError, "`check_opponent: false`") as error:
            play(llama_folder, "full", num_iterations=1)
    assert len(set(re.findall(r"-\d+\.\d{4}\b", str(error.value)))) == 2, "log-probabilities of both models"
    assert not Path("run/iteration-0/model").exists()
    play(llama_folder, "full", num_iterations=1)
    assert entry("train", "iteration-0")["steps"] == 3


@pytest.mark.parametrize("name", ["dataset", "model", "template"])
def test_generations_that_do_not_belong_are_refused(name: str, llama_folder: Path) -> None:
    """A manifest that names another dataset, model or template stops the phase before it trains."""
    stopped = build(llama_folder, num_iterations=1)
    stopped.run_phase("generate", 0)
    without_checksums()  # otherwise they would be generated again, as damaged
    path = Path("run/iteration-0/generations/generations.json")
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), name: "0123456789abcdef"}), encoding="utf-8"
    )
    with refused(GenerationsError, "run/iteration-0/generations", f"{name}:", "'0123456789abcdef'"):
        build(llama_folder, num_iterations=1).run()
    assert not Path("run/iteration-0/model").exists()


def test_changed_generations_never_meet_old_log_probs(llama_folder: Path, trainers: list[dict[str, Any]]) -> None:
    """Training is interrupted, a shard is replaced by other answers, and training starts over.

    The first attempt's cache is in the same folder, for the same rows and the same model.
    """
    import pyarrow.parquet as pq

    run = build(llama_folder, num_iterations=1)
    run.run_phase("generate", 0)
    original: Callable[..., Any] = train.save_trained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "save_trained", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.run_phase("train", 0)
    assert train.save_trained is original
    without_checksums()  # otherwise they would be generated again, as damaged
    for shard in Path("run/iteration-0/generations").glob("shard-*"):
        table = pq.read_table(shard)
        rows = [{**row, "ids": [*row["ids"][:-1], 300]} for row in table.to_pylist()]
        pq.write_table(table.from_pylist(rows, schema=table.schema), shard)
    run.run_phase("train", 0)
    first, second = trainers
    opponent = AutoModelForCausalLM.from_pretrained(llama_folder)
    for row in second["rows"]:
        assert row["generated"][-1] == 300
        assert row["ref_rejected_logps"] == pytest.approx(
            logp(opponent, row["prompt_ids"], row["generated"]), abs=1e-3
        )
    assert [row["ref_rejected_logps"] for row in first["rows"]] != [
        row["ref_rejected_logps"] for row in second["rows"]
    ]
    assert [row["ref_chosen_logps"] for row in first["rows"]] == pytest.approx(
        [row["ref_chosen_logps"] for row in second["rows"]], abs=1e-4
    )
    assert entry("train", "iteration-0")["first"]["loss"] == pytest.approx(LN2, abs=1e-5)


@pytest.mark.parametrize("way", ["full", "lora"])
def test_training_that_goes_on_does_not_run_its_opponent_again(
    way: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opponent's log-probs are stored in the run directory, and an interrupted phase finds them there."""
    passes: list[int] = []
    original = SPINTrainer.compute_ref_log_probs
    monkeypatch.setattr(
        SPINTrainer,
        "compute_ref_log_probs",
        # Excluding the rehearsal that precedes a run.
        lambda self, *args: (type(self) is SPINTrainer and passes.append(1)) or original(self, *args),
    )
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_trained", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            play(llama_folder, way, num_iterations=1)
    assert passes
    passes.clear()
    play(llama_folder, way, num_iterations=1)
    assert not passes
    assert entry("train", "iteration-0")["first"]["loss"] == pytest.approx(AT_ZERO[way], abs=1e-5)


def test_degenerate_pairs_are_counted_and_dropped_if_so_set(llama_folder: Path) -> None:
    """The journal says how many were truncated, empty, or identical, and how many were left out."""
    build(llama_folder, num_iterations=1, max_new_tokens=40, max_length=64, temperature=1.0).run()
    counts = entry("train", "iteration-0")["pairs"]
    generated = answers("run", "iteration-0")
    cut = sum(not set(ids) & {0, 2} for ids in generated.values())
    assert counts["truncated"] == cut
    assert counts["dropped"] == 0
    assert 0 < cut < 12, "the test needs some of either kind"
    build(
        llama_folder, "dropped", num_iterations=1, max_new_tokens=40, temperature=1.0, truncated_generations="drop"
    ).run()
    assert entry("train", "iteration-0", "dropped")["pairs"]["dropped"] == cut
    assert entry("train", "iteration-0", "dropped")["steps"] == math.ceil((12 - cut) / 4)


@pytest.mark.slow
def test_the_same_adapter_settings_go_on_with_the_run(llama_folder: Path) -> None:
    """PEFT modifies the configuration it is given; the caller's own is unchanged and still matches the run."""
    config = LoraConfig(r=4, task_type="CAUSAL_LM")
    before = config.to_dict()
    for num_iterations in (1, 2):
        build(llama_folder, num_iterations=num_iterations, peft_config=config, baseline="sft").run()
        assert config.to_dict() == before
    assert entry("train", "iteration-1")["first"]["rewards/margins"] == 0.0


def test_another_number_of_processes_starts_the_training_anew(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint of two processes can't be resumed by one, so the iteration starts over, with a warning."""
    settings = {"num_iterations": 1, "save_strategy": "steps", "save_steps": 1}
    build(llama_folder, "whole", **settings).run()
    run = build(llama_folder, **settings)
    run.run_phase("generate", 0)
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_trained", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.run_phase("train", 0)
    for path in Path("run/iteration-0/train").glob("checkpoint-*/checkpoint.json"):
        path.write_text(
            json.dumps({**json.loads(path.read_text(encoding="utf-8")), "num_processes": 2}), encoding="utf-8"
        )
    resumed: list[Any] = []
    original = SPINTrainer.train
    monkeypatch.setattr(
        SPINTrainer,
        "train",
        lambda self, resume_from_checkpoint=None: (
            resumed.append(resume_from_checkpoint) or original(self, resume_from_checkpoint)
        ),
    )
    run.run()
    assert resumed == [None]
    assert any(names(message, "run/iteration-0/train/checkpoint-3", "2 processes", 1) for message in caplog.messages)
    assert weights("run/iteration-0/model") == weights("whole/iteration-0/model")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"peft_config": LoraConfig(**{**LORA, "target_modules": ["nope"]})}, ("target modules", "'nope'")),
        (
            {"peft_config": LoraConfig(**{**LORA, "target_modules": ["lm_head"]})},
            ("`target_modules`", "`lm_head`", "`modules_to_save`"),
        ),
        (
            {"f_divergence_type": "js_divergence", "loss_type": "bco_pair"},
            ("`f_divergence_type='js_divergence'`", "'bco_pair'"),
        ),
    ],
    ids=["no such module", "head", "divergence"],
)
def test_settings_that_can_not_be_trained_with_are_bad_input(
    settings: dict[str, Any], parts: tuple[str, ...], llama_folder: Path
) -> None:
    """If TRL or PEFT refuse settings, the error has their message and exit code 2, not a traceback."""
    with refused(RecipeError, *parts):
        build(llama_folder, num_iterations=1, **settings).run()


def test_a_model_for_which_peft_has_no_layers_says_which_setting_names_them(tmp_path: Path) -> None:
    """`use_peft: true` alone is enough for a Llama, not for a Phi-3."""
    folder = tiny.save(tmp_path / "phi3", tiny.model("phi3"))
    run = build(folder, num_iterations=1, peft_config=LoraConfig(task_type="CAUSAL_LM"))
    with refused(RecipeError, "`target_modules`", "`lora_target_modules: all-linear`"):
        run.run()
