"""SPINTrainer takes human responses and trains one iteration of self-play against the model's own answers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, TrainerCallback, TrainingArguments
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import use_adapter

import tiny
from messages import names, refused
from spin_trl import DataCollatorForSelfPlay, SPINTrainer
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError, OpponentError, RecipeError
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore
from trainers import (
    AT_ZERO,
    LN2,
    LORA,
    build,
    copy_of,
    llama_with,
    logged,
    logp,
    pairs,
    same,
    settings,
    starts_at_its_opponent,
    store_of,
    stored,
)

pytestmark = pytest.mark.numeric


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Llama whose widths bitsandbytes' 4-bit CPU inference kernels can divide into blocks."""
    widths = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    return tiny.save(tmp_path_factory.mktemp("wide"), tiny.model(**widths))


def greedy(model: PreTrainedModel, prompt: list[int], most: int) -> list[int]:
    """Return the most likely continuation, token by token, without a cache and without `generate`."""
    ids = list(prompt)
    for _ in range(most):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in model.generation_config.eos_token_id:
            break
    return ids[len(prompt) :]


def adapter(model: Any, name: str) -> dict[str, torch.Tensor]:
    """Return copies of one adapter's tensors, by module."""
    found = {
        key.replace(f".{name}.", "."): tensor.detach().clone()
        for key, tensor in model.named_parameters()
        if f".{name}." in key
    }
    assert found
    return found


# ---- every iteration starts at its opponent --------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", list(AT_ZERO))
@pytest.mark.slow
def test_four_iterations_of_full_fine_tuning(loss_type: str, llama: PreTrainedModel) -> None:
    """One model goes through four trainers: each begins at the objective's value at zero, against the model as it was
    passed.
    """
    model, previous = llama, None
    for iteration in range(4):
        before = copy_of(model)
        assert previous is None or not same(previous, before)
        trainer = build(model, overrides={"loss_type": loss_type, "output_dir": f"out/{iteration}"})
        assert trainer.ref_model is None, "there must be no second model"
        trainer.train()
        starts_at_its_opponent(trainer, loss_type)
        opponent = llama_with(before)
        for row, generated in pairs(trainer):
            assert row["ref_chosen_logps"] == pytest.approx(
                logp(opponent, row["prompt_ids"], row["real_ids"]), abs=1e-3
            )
            assert row["ref_rejected_logps"] == pytest.approx(logp(opponent, row["prompt_ids"], generated), abs=1e-3)
        model, previous = trainer.model, before


@pytest.mark.parametrize("loss_type", list(AT_ZERO))
def test_four_iterations_of_lora_on_one_object(loss_type: str, llama_folder: Path) -> None:
    """One PeftModel goes through four trainers: from the second on, the opponent is the frozen copy of its own adapter."""
    model: Any = None
    for iteration in range(4):
        before = None if model is None else adapter(model, "default")
        trainer = build(
            str(llama_folder) if model is None else model,
            overrides={"loss_type": loss_type, "output_dir": f"out/{iteration}"},
            peft_config=LoraConfig(**LORA) if model is None else None,
        )
        base = {name: tensor for name, tensor in copy_of(trainer.model).items() if "lora" not in name}
        trainer.train()
        starts_at_its_opponent(trainer, loss_type)
        model = trainer.model
        assert same(base, {name: tensor for name, tensor in copy_of(model).items() if "lora" not in name})
        if before is None:
            assert set(model.peft_config) == {"default"}, "a new adapter's opponent is the base model itself"
        else:
            assert same(adapter(model, "ref"), before)
        assert before is None or not same(adapter(model, "default"), before)


def test_four_iterations_of_qlora_on_one_object(llama_folder: Path) -> None:
    """With 4-bit weights, the frozen adapter must have the trainable one's numbers, in its dtype."""
    model: Any = AutoModelForCausalLM.from_pretrained(llama_folder, quantization_config=BitsAndBytesConfig(**NF4))
    for iteration in range(4):
        before = None if iteration == 0 else adapter(model, "default")
        trainer = build(
            model,
            overrides={"output_dir": f"out/{iteration}", "learning_rate": 0.2},
            peft_config=LoraConfig(**LORA) if iteration == 0 else None,
        )
        assert trainer.model.is_loaded_in_4bit
        trainer.train()
        starts_at_its_opponent(trainer)
        model = trainer.model
        if before is not None:
            frozen = adapter(model, "ref")
            assert same(frozen, before)
            assert {tensor.dtype for tensor in frozen.values()} == {
                tensor.dtype for tensor in adapter(model, "default").values()
            }


@pytest.mark.parametrize(
    ("peft", "temperature"),
    [(False, 1.0), (False, 0.0), (True, 1.0), (True, 0.0)],
    ids=["full", "full greedy", "lora", "lora greedy"],
)
def test_training_again_plays_the_next_iteration(peft: bool, temperature: float, llama_folder: Path) -> None:
    """With `train()` called four times on one trainer, the policy at each call is the opponent of that call.

    A model that moved little gives the same greedy answers as before, so the data's fingerprint is the same: the
    cached log-probabilities of the earlier opponent must not be used for the new one.
    """
    trainer = build(
        str(llama_folder),
        overrides={
            "temperature": temperature,
            "learning_rate": 1e-3 if temperature == 0 else 2e-2,
            "loss_type": "space",
        },
        peft_config=LoraConfig(**LORA) if peft else None,
    )
    for _ in range(4):
        opponent = copy_of(trainer.model)
        trainer.train()
        assert logged(trainer)[0] == pytest.approx(2 * LN2, abs=1e-5)
        assert logged(trainer, "rewards/margins")[0] == pytest.approx(0.0, abs=1e-5)
        assert not same(
            opponent, {name: tensor for name, tensor in copy_of(trainer.model).items() if name in opponent}
        )


def test_the_opponent_answers_with_the_weights_of_the_start(llama: PreTrainedModel) -> None:
    """In every iteration, the generated response is the model's answer before its first step, token by token."""
    for iteration in range(2):
        opponent = llama_with(copy_of(llama))
        trainer = build(llama, overrides={"temperature": 0.0, "output_dir": f"out/{iteration}", "loss_type": "space"})
        trainer.train()
        found = {row["key"]: generated for row, generated in pairs(trainer)}
        assert len(found) == 6
        for row, generated in pairs(trainer):
            assert generated == greedy(opponent, row["prompt_ids"], 8)
        assert same(copy_of(opponent), copy_of(llama)) is False


def test_the_real_response_is_the_human_one_and_ends_with_eos(llama: PreTrainedModel) -> None:
    """For each pair, DPO's batch has prompt and human response above prompt and generation, nothing re-tokenised."""
    text = tiny.tokenizer()
    trainer = build(llama, train_dataset=tiny.sft(6, "messages"))
    trainer.train()
    expected = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in tiny.sft(6, "messages")}
    for row, generated in pairs(trainer):
        prompt = text.decode(row["prompt_ids"])
        question = prompt.removeprefix("<|im_start|>user\n").removesuffix("<|im_end|>\n<|im_start|>assistant\n")
        assert text.decode(row["real_ids"]) == expected[question] + "<|im_end|>"
        batch = trainer.data_collator([row])
        width = batch["input_ids"].shape[1]
        for line, response in zip(batch["input_ids"].tolist(), (row["real_ids"], generated), strict=True):
            ids = row["prompt_ids"] + response
            assert line == ids + [text.pad_token_id] * (width - len(ids))
        assert batch["completion_mask"].sum(dim=1).tolist() == [len(row["real_ids"]), len(generated)]


# ---- the check at run time ------------------------------------------------------------------------------------------


def moved(model: Any, name: str, by: float) -> None:
    """Change the weights whose names contain `name`, as a careless script would."""
    with torch.no_grad():
        changed = [parameter.add_(by) for key, parameter in model.named_parameters() if name in key]
    assert changed


def test_changed_weights_are_noticed_at_the_first_step(llama_folder: Path) -> None:
    """If weights change between construction and training, the run stops, with both log-probs and the likely cause."""
    trainer = build(str(llama_folder), generations=stored(llama_folder))
    start = llama_with(copy_of(trainer.model))
    moved(trainer.model, "q_proj", 0.3)
    before = copy_of(trainer.model)
    with pytest.raises(OpponentError) as failure:
        trainer.train()
    message = str(failure.value)
    policy, opponent = (float(n) for n in re.findall(r"-\d+\.\d{4}", message))
    known = [
        (logp(llama_with(before), row["prompt_ids"], response), logp(start, row["prompt_ids"], response))
        for row, generated in pairs(trainer)
        for response in (row["real_ids"], generated)
    ]
    assert any(policy == pytest.approx(p, abs=2e-3) and opponent == pytest.approx(o, abs=2e-3) for p, o in known)
    assert abs(policy - opponent) > 0.1
    assert names(message, "weights", "`check_opponent: false`")
    assert same(copy_of(trainer.model), before), "no step may have been taken"


def test_a_frozen_adapter_that_is_another_is_noticed(llama_folder: Path) -> None:
    """With LoRA, the reference is wrong if the frozen adapter is not the policy's start."""
    first = build(str(llama_folder), overrides={"output_dir": "0"}, peft_config=LoraConfig(**LORA))
    first.train()
    trainer = build(first.model, overrides={"output_dir": "1"})
    moved(trainer.model, ".ref.", 0.3)
    trainer._given = Generations.load({0: store_of(first)})  # so that the wrong adapter is not frozen again
    trainer._for_each_dataset(trainer._with_opponent)
    with refused(OpponentError, "`check_opponent: false`") as error:
        trainer.train()
    assert len(re.findall(r"-\d+\.\d{4}", str(error.value))) == 2, "the policy's log-probability and the opponent's"


def test_wrong_log_probs_of_the_opponent_are_noticed(llama_folder: Path) -> None:
    """With full fine-tuning, the reference is wrong if cached log-probs come from another model: here, one nat off per
    response.
    """
    trainer = build(str(llama_folder), generations=stored(llama_folder))
    shifted = [value - 1 for value in trainer.train_dataset["ref_rejected_logps"]]
    trainer.train_dataset = trainer.train_dataset.remove_columns("ref_rejected_logps").add_column(
        "ref_rejected_logps", shifted
    )
    with refused(OpponentError, "`check_opponent: false`"):
        trainer.train()


def test_the_check_can_be_switched_off(llama_folder: Path) -> None:
    """`check_opponent: false` trains anyway, and the loss shows what is wrong."""
    trainer = build(str(llama_folder), overrides={"check_opponent": False}, generations=stored(llama_folder))
    moved(trainer.model, "q_proj", 0.3)
    trainer.train()
    assert trainer.state.global_step == 2
    assert abs(logged(trainer, "rewards/chosen")[0]) > 0.01


def test_an_explicit_reference_is_used_as_it_is(llama_folder: Path) -> None:
    """With `ref_model` the user has chosen the opponent's log-probs, so nothing is checked or replaced."""
    other = tiny.model(seed=5)
    trainer = build(str(llama_folder), ref_model=other)
    row_logps = []
    trainer.train()
    for row, generated in pairs(trainer):
        row_logps.append(logp(tiny.model(seed=5), row["prompt_ids"], generated))
    assert trainer.ref_model is not None
    assert abs(logged(trainer, "rewards/margins")[0]) > 1e-3
    assert same(copy_of(other), copy_of(tiny.model(seed=5)))


def test_dropout_is_off_by_default_and_a_choice_where_it_is_on(llama_folder: Path) -> None:
    """An adapter with dropout starts exactly at its opponent; `disable_dropout: false` trains with dropout, unchecked."""
    config = LoraConfig(**LORA, lora_dropout=0.5)
    first = build(str(llama_folder), overrides={"output_dir": "0"}, peft_config=config)
    first.train()
    quiet = build(first.model, overrides={"output_dir": "1"})
    quiet.train()
    starts_at_its_opponent(quiet)
    noisy = build(str(llama_folder), overrides={"output_dir": "2", "disable_dropout": False}, peft_config=config)
    noisy.train()
    again = build(noisy.model, overrides={"output_dir": "3", "disable_dropout": False})
    again.train()
    assert logged(again, "rewards/chosen")[0] != 0.0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_check_holds_with_gradient_accumulation_and_evaluation_first(accumulate: int, llama_folder: Path) -> None:
    """Every micro-batch of the first step, and an evaluation before it, sees the policy at its opponent."""
    trainer = build(
        str(llama_folder),
        overrides={
            "gradient_accumulation_steps": accumulate,
            "per_device_train_batch_size": 1,
            "eval_on_start": True,
            "eval_strategy": "epoch",
        },
        eval_dataset=tiny.sft(9).select(range(6, 9)),
    )
    trainer.train()
    starts_at_its_opponent(trainer)
    evaluated = logged(trainer, "eval_loss")
    assert evaluated[0] == pytest.approx(LN2, abs=1e-5)
    assert logged(trainer, "eval_rewards/margins")[0] == pytest.approx(0.0, abs=1e-5)
    assert abs(evaluated[-1] - LN2) > 1e-3


# ---- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_evaluation_datasets_are_answered_too(peft: bool, llama_folder: Path) -> None:
    """Held-out rows, alone or by name, get answers from the same opponent; for a shared prompt, each dataset keeps its
    own.
    """
    held_out = {"seen": tiny.sft(3), "unseen": tiny.sft(9).select(range(6, 9)), "given": tiny.preference(3)}
    trainer = build(
        str(llama_folder),
        overrides={"eval_strategy": "epoch", "eval_on_start": True},
        eval_dataset=held_out,
        peft_config=LoraConfig(**LORA) if peft else None,
    )
    trainer.train()
    for name in held_out:
        losses = logged(trainer, f"eval_{name}_loss")
        assert losses[0] == pytest.approx(LN2, abs=1e-5)
        assert abs(losses[1] - LN2) > 1e-4
    assert set(trainer.pair_counts) == {"train", "seen", "unseen"}
    generations = trainer.data_collator.generations
    train = [generations[(row["key"], 0, 0)] for row in trainer.train_dataset]
    seen = [generations[(row["key"], 0, 0)] for row in trainer.eval_dataset["seen"]]
    # These are the same prompts in other micro-batches, so with other draws: if mixed up, they would be equal.
    assert len(seen) == 3
    assert seen != train[:3]
    if not peft:
        opponent = tiny.model()
        for row, generated in zip(trainer.eval_dataset["seen"], seen, strict=True):
            expected = logp(opponent, row["prompt_ids"], generated)
            assert row["ref_rejected_logps"] == pytest.approx(expected, abs=1e-3)


def test_evaluating_on_pairs_before_and_after_training(llama_folder: Path) -> None:
    """`evaluate` works as in DPOTrainer: on the trainer's dataset after training, and on given pairs if possible."""
    trainer = build(str(llama_folder), eval_dataset=tiny.sft(9).select(range(6, 9)), peft_config=LoraConfig(**LORA))
    assert trainer.evaluate(tiny.preference(3))["eval_loss"] == pytest.approx(LN2, abs=1e-5)
    assert trainer.evaluate(tiny.sft(3))["eval_loss"] == pytest.approx(LN2, abs=1e-5)
    trainer.train()
    after = trainer.evaluate()
    assert abs(after["eval_loss"] - LN2) > 1e-4
    assert abs(trainer.evaluate(tiny.preference(3))["eval_loss"] - LN2) > 1e-4


def test_new_rows_are_answered_by_the_opponent_even_after_training(llama_folder: Path) -> None:
    """With an adapter the opponent remains available, so `evaluate` on new rows uses its answers, not the policy's."""

    def saved(trainer: SPINTrainer, folder: str) -> PeftModel:
        trainer.save_model(folder)
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), folder).eval()

    rows = prepare(tiny.sft(9).select(range(6, 9)), PairTemplate(tiny.tokenizer()))
    overrides = {"temperature": 0.0, "num_train_epochs": 5}
    opponent: Any = AutoModelForCausalLM.from_pretrained(llama_folder)
    model: Any = str(llama_folder)
    for iteration in range(2):
        trainer = build(
            model,
            overrides={**overrides, "output_dir": f"{iteration}"},
            peft_config=LoraConfig(**LORA) if iteration == 0 else None,
        )
        trainer.train()
        trainer.evaluate(tiny.sft(9).select(range(6, 9)))
        (folder,) = Path(trainer.args.output_dir, "generations").glob("eval-*")
        answers = Generations.load({0: GenerationStore(folder)})
        expected = [greedy(opponent, row["prompt_ids"], 8) for row in rows]
        assert [answers[(row["key"], 0, 0)] for row in rows] == expected
        model, policy = trainer.model, saved(trainer, f"policy-{iteration}")
        assert [greedy(policy, row["prompt_ids"], 8) for row in rows] != expected
        opponent = policy


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_evaluating_before_training_answers_first(peft: bool, llama_folder: Path) -> None:
    """With `evaluate()` before `train()`, the policy is its own opponent, so the loss is the value at zero."""
    trainer = build(
        str(llama_folder),
        eval_dataset=tiny.sft(9).select(range(6, 9)),
        peft_config=LoraConfig(**LORA) if peft else None,
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(LN2, abs=1e-5)
    trainer.train()
    starts_at_its_opponent(trainer)


def test_the_opponents_log_probs_are_computed_once_with_an_adapter_too(llama_folder: Path) -> None:
    """They come from the base model, and from the frozen adapter in the next iteration; no step runs an opponent."""
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    trainer = build(str(llama_folder), peft_config=LoraConfig(**LORA), overrides={"loss_type": "space"})

    def opponents(model: Any) -> list[float]:
        return [logp(model, row["prompt_ids"], generated) for row, generated in pairs(trainer)]

    trainer.train()
    assert trainer.train_dataset["ref_rejected_logps"] == pytest.approx(opponents(base), abs=1e-4)
    trainer.train()
    with use_adapter(trainer.model, "ref"):
        assert trainer.train_dataset["ref_rejected_logps"] == pytest.approx(opponents(trainer.model), abs=1e-4)
    assert trainer.train_dataset["ref_rejected_logps"] != pytest.approx(opponents(base), abs=1e-3)


def test_an_adapter_may_be_evaluated_on_a_stream_of_pairs(llama_folder: Path) -> None:
    """Nothing can be precomputed for a stream; adapters are switched at every step instead."""
    stream = tiny.preference(3).to_iterable_dataset()
    trainer = build(str(llama_folder), peft_config=LoraConfig(**LORA), eval_dataset=stream)
    trainer.train()
    starts_at_its_opponent(trainer)
    assert "ref_chosen_logps" not in trainer.train_dataset.column_names
    assert trainer.evaluate()["eval_loss"] > 0


# ---- what self-play can't do ----------------------------------------------------------------------------------------


def test_what_self_play_can_not_do_is_refused_before_a_model_is_loaded() -> None:
    """Streams, images, DPO's own settings, a foreign collator and a moving reference give errors that say what to do."""
    rows = tiny.sft(4)
    stream = IterableDataset.from_generator(rows.__iter__, features=rows.features)
    pictured = rows.add_column("image", ["x"] * 4)

    def is_refused(kind: type[Exception], *parts: str, **kwargs: Any) -> None:
        with refused(kind, *parts):
            SPINTrainer("no/such-model", **{"args": settings(), "train_dataset": rows, **kwargs})

    is_refused(DataError, "`train_dataset`", "IterableDataset", "`Dataset`", train_dataset=stream)
    is_refused(DataError, "images", "`image`", "row 0", train_dataset=pictured)
    is_refused(RecipeError, "`args`", "TrainingArguments", "SPINConfig", args=TrainingArguments("x", use_cpu=True))
    is_refused(
        DataError,
        "`data_collator`",
        "DataCollatorForSelfPlay",
        data_collator=DataCollatorForPreference(pad_token_id=0),
    )
    is_refused(RecipeError, "`sync_ref_model`", args=settings(sync_ref_model=True))
    is_refused(
        DataError,
        "`generations`",
        "`train_dataset`",
        "['prompt', 'chosen', 'rejected']",
        train_dataset=tiny.preference(2),
        generations="somewhere",
    )


def test_data_that_can_not_be_trained_on_is_refused(llama_folder: Path) -> None:
    """For prompts that fill `max_length`, an empty completion, no assistant turn or no template, the error names the
    row and reason.
    """

    def is_refused(dataset: Dataset, *parts: str, **kwargs: Any) -> None:
        with refused(DataError, *parts):
            build(str(llama_folder), train_dataset=dataset, **kwargs)

    is_refused(tiny.sft(2), "train", "4 tokens", "`max_length`", overrides={"max_length": 4})
    is_refused(
        Dataset.from_list([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}]),
        "Row 1", "completion", "empty", "`bad_rows: skip`",
    )  # fmt: skip
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    is_refused(Dataset.from_list([{"messages": turns}]), "Row 0", "assistant", "['system', 'user']")
    plain = tiny.tokenizer(chat_template=False)
    is_refused(tiny.sft(2, "messages"), "2 of 2 rows", "`tokenizer.chat_template`", processing_class=plain)
    with refused(DataError, "`eval_dataset`", "`prompt`", "`chosen`", "`rejected`", "`train_dataset`"):
        build(str(llama_folder), train_dataset=tiny.preference(2), eval_dataset=tiny.sft(2))


def test_prompts_that_fill_max_length_are_left_out_and_counted(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in DPOTrainer, they leave no room for a response; the log counts them."""
    long = {"prompt": "red boat " * 40, "completion": " yes"}
    trainer = build(str(llama_folder), train_dataset=Dataset.from_list([*tiny.sft(3).to_list(), long]))
    trainer.train()
    assert trainer.pair_counts["train"].total == 3
    assert names(caplog.text, "1 of 4 rows", "train", "64 tokens", "`max_length`")


def test_several_answers_a_prompt_are_pairs_of_their_own(llama_folder: Path) -> None:
    """`num_generations: 3` makes three pairs from every row, with different answers."""
    trainer = build(str(llama_folder), overrides={"num_generations": 3, "max_steps": 2})
    trainer.train()
    assert len(trainer.train_dataset) == 18
    answers: dict[str, set[tuple[int, ...]]] = {}
    for row, generated in pairs(trainer):
        answers.setdefault(row["key"], set()).add(tuple(generated))
    assert all(len(found) == 3 for found in answers.values())


def test_a_collator_of_ours_may_be_passed(llama_folder: Path) -> None:
    """Its settings are kept; its generations are filled in."""
    collator = DataCollatorForSelfPlay(pad_token_id=0, pad_to_multiple_of=16, generations=Generations({}))
    trainer = build(str(llama_folder), data_collator=collator)
    trainer.train()
    starts_at_its_opponent(trainer)
    assert trainer.data_collator is collator
    assert collator([next(pairs(trainer))[0]])["input_ids"].shape[1] % 16 == 0


# ---- resuming -------------------------------------------------------------------------------------------------------


class StopAt(TrainerCallback):
    """Raises KeyboardInterrupt after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("in_one_process", [False, True], ids=["new trainer", "same trainer"])
def test_resuming_keeps_the_opponent_of_the_start(peft: bool, in_one_process: bool, llama_folder: Path) -> None:
    """Interrupted and resumed training ends with the weights of undisturbed training: the opponent is still the start."""
    overrides = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}

    def fresh(folder: str, **kwargs: Any) -> SPINTrainer:
        torch.manual_seed(0)
        peft_config = LoraConfig(**LORA) if peft else None
        return build(
            str(llama_folder), overrides={**overrides, "output_dir": folder}, peft_config=peft_config, **kwargs
        )

    whole = fresh("whole")
    whole.train()
    trainer = fresh("out", callbacks=[StopAt(3)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    if in_one_process:
        trainer.remove_callback(StopAt)
    else:
        trainer = fresh("out")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    assert same(copy_of(trainer.model), copy_of(whole.model))
    assert logged(trainer)[-1] == logged(whole)[-1]


def test_a_half_written_checkpoint_is_passed_over(llama_folder: Path) -> None:
    """If the machine died while the newest checkpoint was written, the previous one is resumed, with the same result."""
    overrides = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}
    whole = build(str(llama_folder), overrides={**overrides, "output_dir": "whole"})
    whole.train()
    first = build(str(llama_folder), overrides=overrides, callbacks=[StopAt(3)])
    with pytest.raises(KeyboardInterrupt):
        first.train()
    newest = max(Path("out").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "checkpoint.json").unlink()
    (newest / "trainer_state.json").unlink()
    second = build(str(llama_folder), overrides=overrides)
    second.train(resume_from_checkpoint=True)
    assert same(copy_of(second.model), copy_of(whole.model))


# ---- saving and dtypes ----------------------------------------------------------------------------------------------


def test_the_frozen_adapter_is_neither_saved_nor_lost(llama_folder: Path) -> None:
    """Checkpoints and the final model hold only the trained adapter; in memory the opponent remains."""
    first = build(str(llama_folder), overrides={"output_dir": "0"}, peft_config=LoraConfig(**LORA))
    first.train()
    trainer = build(first.model, overrides={"output_dir": "1", "save_strategy": "steps", "save_steps": 1})
    trainer.train()
    trainer.save_model("final")
    assert set(trainer.model.peft_config) == {"default", "ref"}
    for folder in ("1/checkpoint-1", "1/checkpoint-2", "final"):
        assert not Path(folder, "ref").exists()
        assert not [path for path in Path(folder).rglob("*") if path.is_dir()]
        tensors = load_file(f"{folder}/adapter_model.safetensors")
        assert tensors
        assert not [name for name in tensors if "ref" in name]
    expected = adapter(trainer.model, "default")
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    assert same(adapter(PeftModel.from_pretrained(base, "final"), "default"), expected)


def test_4_bit_and_fp16_train_as_on_a_t4(llama_folder: Path) -> None:
    """TRL makes the adapters bfloat16, whose gradients the scaler of `fp16: true` refuses (a T4 has no bfloat16).

    Here they are float32, and so is the frozen one: two iterations run under the scaler, each from its opponent.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(llama_folder, quantization_config=BitsAndBytesConfig(**NF4))
    for iteration in range(2):
        trainer = build(
            model,
            overrides={
                "output_dir": f"{iteration}",
                "use_cpu": not torch.cuda.is_available(),
                "fp16": True,
                "learning_rate": 0.1,
                "num_train_epochs": 4,
            },
            peft_config=LoraConfig(**LORA) if iteration == 0 else None,
        )
        names = ("default", "ref") if iteration else ("default",)
        for name in names:
            assert {tensor.dtype for tensor in adapter(trainer.model, name).values()} == {torch.float32}
        trainer.train()
        starts_at_its_opponent(trainer)
        model = trainer.model


def test_adapters_on_4_bit_weights_lose_no_small_step(llama_folder: Path) -> None:
    """TRL rounds them to bfloat16, whose numbers are 1e-4 apart at the size of the weights: steps of 1e-6 would all be
    lost.

    In self-play they are float32, carry over from one iteration to the next unrounded, and change.
    """
    model = AutoModelForCausalLM.from_pretrained(llama_folder, quantization_config=BitsAndBytesConfig(**NF4))
    settings = {"max_steps": 3, "learning_rate": 1e-6}
    first = build(model, overrides={"output_dir": "0", **settings}, peft_config=LoraConfig(**LORA))
    new = adapter(first.model, "default")
    first.train()
    trained = adapter(first.model, "default")
    assert all(not torch.equal(trained[name], new[name]) for name in new)
    trainer = build(first.model, overrides={"output_dir": "1", **settings})
    for name in ("default", "ref"):
        assert {tensor.dtype for tensor in adapter(trainer.model, name).values()} == {torch.float32}
        assert same(adapter(trainer.model, name), trained)
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(LN2, abs=1e-5)
    assert same(adapter(trainer.model, "ref"), trained)
    assert not same(adapter(trainer.model, "default"), trained)


def test_bfloat16_starts_at_its_opponent(llama_folder: Path) -> None:
    """In bfloat16 the log-probs differ by rounding between batches; the check allows for that."""
    trainer = build(str(llama_folder), overrides={"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}})
    assert trainer.model.dtype == torch.bfloat16
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(LN2, abs=0.02)
