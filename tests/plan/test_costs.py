"""Hours, tokens and disk space are compared with calculations by hand and with the times of two papers."""

import dataclasses

import pytest

import tiny
from plan.shapes import QWEN_05B, ZEPHYR, folder, recipe, small
from spin_trl.plan.costs import ModelCosts, tokenizer_bytes
from spin_trl.plan.devices import DEVICES, SECONDS_A_LAYER, utilisation
from spin_trl.plan.model import ModelSettings, PlannedModel
from spin_trl.plan.planning import Wishes, make_plan


def works(tmp_path, gpu="a100-80", wishes=None, **settings):
    path = recipe(tmp_path, folder(tmp_path / "model", small()), **settings)
    found = make_plan(path, [], wishes or Wishes(prompt_tokens=50, response_tokens=100), on_gpu=True)
    return found, found.work(DEVICES[gpu])


@pytest.fixture(scope="module")
def zephyr():
    import torch

    return ModelCosts(PlannedModel(ModelSettings(ZEPHYR, torch.bfloat16)))


def test_operations_by_hand(zephyr):
    """Each token takes two operations per weight: 7,241,732,096 weights minus the embedding and the head of 32,000 x
    4,096 each.
    """
    body = 7_241_732_096 - 2 * 32_000 * 4096
    attention = 4 * 32 * 4096 * 500
    assert zephyr.forward(1000, 0, 1000) == pytest.approx(1000 * (2 * body + attention))
    assert zephyr.forward(0, 10, 1) == 10 * 2 * 32_000 * 4096


@pytest.mark.parametrize(
    ("gpu", "row", "seconds"), [("a100-80", 900, 10.0), ("h100", 1400, 7.6)], ids=["SPIN's paper", "IRIS's paper"]
)
def test_training_takes_as_long_as_the_papers_say(zephyr, gpu, row, seconds):
    """A step of 64 pairs on eight GPUs is within a factor of two: 10 s on A100s (arXiv 2401.01335, appendix B.1), 7.6
    s on H100s (3.31 h for two epochs of 50,000 pairs, arXiv 2604.20933). Their code runs 128 rows, padded to the
    longest, through the policy (forward, again for checkpointing, backward) and through a reference model; the
    papers do not state row lengths.
    """
    operations = 5 * zephyr.forward(128 * row, 128 * row, row)
    device = DEVICES[gpu]
    found = operations / (8 * utilisation(device, 4096) * device.tflops * 1e12)
    assert seconds / 2 < found < 2 * seconds


def test_answering_takes_as_long_as_the_paper_says(zephyr):
    """64 prompts on eight A100s, with at most 256 tokens each, take 6.69 s (arXiv 2401.01335, B.1), within a factor of
    two.
    """
    step = 32 * SECONDS_A_LAYER + zephyr.weight_bytes / (DEVICES["a100-80"].bandwidth * 1e9)
    assert 6.69 / 2 < 256 * step < 2 * 6.69


def test_tokens_and_steps_by_hand(tmp_path):
    """640 rows, 13 held out; 150 tokens per row, 100 generated; 2 pairs per step; two epochs, then one; history 1.

    The last step of an epoch of 627 pairs has one pair.
    """
    found, work = works(
        tmp_path,
        num_train_epochs=[2, 1],
        per_device_train_batch_size=2,
        history=1,
        save_strategy="no",
        max_new_tokens=100,
    )
    assert (found.lengths.num_rows, found.lengths.num_held_out) == (627, 13)
    first, second = work[1:]
    assert (first.steps, second.steps) == (628, 627)
    assert first.sampled == second.sampled == 627 * 100
    assert first.trained == 627 * 2 * 250
    assert first.seconds["train"] == pytest.approx(second.seconds["train"])


def test_a_measured_rate_takes_the_place_of_what_is_assumed(tmp_path):
    wishes = Wishes(prompt_tokens=50, response_tokens=100, training_tokens=1000.0, generation_tokens=500.0)
    _, work = works(tmp_path, wishes=wishes, num_train_epochs=1, per_device_train_batch_size=1, max_new_tokens=100)
    assert work[1].seconds["train"] == pytest.approx(627 * 250 / 1000)
    assert work[1].seconds["generate"] == pytest.approx(627 * 100 / 500)


def test_the_final_models_answer_the_test_set_once(tmp_path):
    """These are the start, the best iteration and an arm's best. The data is not available, so 1,000 prompts are
    assumed, with 100 generated tokens each at 500 per second, and scoring.
    """
    wishes = Wishes(prompt_tokens=50, response_tokens=100, generation_tokens=500.0)
    _, work = works(tmp_path, wishes=wishes, max_new_tokens=100, test_name="org/test", baseline="sft")
    _, others = works(tmp_path, wishes=wishes, max_new_tokens=100, baseline="sft")
    assert [one.stage for one in work] == [*(one.stage for one in others), "test"]
    answering = 3 * 1000 * 100 / 500
    assert answering < work[-1].seconds["test"] < 1.1 * answering


def test_every_model_is_measured_on_tasks_of_the_harness(tmp_path):
    """Two tasks of 100 questions, with four requests of 200 tokens each, put 160,000 tokens through the body and the
    head.
    """
    (found, without), (_, work) = (
        works(tmp_path, retain_max=100, **settings) for settings in ({}, {"retain_tasks": ["hellaswag", "arc_easy"]})
    )
    costs = ModelCosts(found.memory.replica)
    operations = 160_000 * (2 * costs.body + costs.attention * 100 + 2 * costs.head)
    more = [one.seconds["evaluate"] - other.seconds["evaluate"] for one, other in zip(work, without, strict=True)]
    assert len(more) > 1
    assert more == pytest.approx([operations / found.speed(DEVICES["a100-80"]).flops] * len(more))


@pytest.mark.slow
def test_iris_looks_ahead_where_gradients_are_accumulated(tmp_path):
    """It adds one forward pass to forward, recomputation and backward: a quarter of the step."""
    (tmp_path / "b").mkdir()
    settings = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 1, "num_train_epochs": 1}
    _, plain = works(tmp_path, **settings)
    _, iris = works(tmp_path / "b", loss_type="iris", iris_schedule="published", **settings)
    assert iris[1].seconds["train"] == pytest.approx(1.25 * plain[1].seconds["train"])


def test_tspin_has_a_third_branch_after_the_first_iteration(tmp_path):
    _, work = works(tmp_path, loss_type="tspin", num_train_epochs=1, max_new_tokens=100)
    assert "opponent's pass" not in work[1].seconds
    assert work[2].trained / work[1].trained == pytest.approx(350 / 250)


def test_a_tokenizer_takes_what_its_files_take(tmp_path):
    """It is saved with every model: two iterations, no checkpoints."""
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path / "saved")
    size = sum(file.stat().st_size for file in (tmp_path / "saved").iterdir())
    assert 0 < tokenizer_bytes(tokenizer) == size < tokenizer_bytes(None)
    found, work = works(tmp_path, save_strategy="no")
    with_large = found.disk(work)["models"]
    found.memory.lengths = dataclasses.replace(found.lengths, tokenizer=tokenizer)
    assert with_large - found.disk(work)["models"] == 2 * (tokenizer_bytes(None) - size)


def test_disk_by_hand(tmp_path):
    """For Qwen2.5-0.5B with LoRA on queries and values and two iterations: 4 * 1,081,344 bytes per adapter, plus
    tokenizers.
    """
    path = recipe(
        tmp_path,
        folder(tmp_path / "model", QWEN_05B),
        use_peft=True,
        lora_target_modules=["q_proj", "v_proj"],
        save_strategy="no",
    )
    found = make_plan(path, [], Wishes(prompt_tokens=50), on_gpu=True)
    disk = found.disk(found.work(DEVICES["t4"]))
    assert disk["models"] == 2 * (4 * 1_081_344 + 15_000_000)
    assert "checkpoints" not in disk
    assert "the start, in the Hub's cache" not in disk  # it is a folder
    found.setup.recipe.model.model_name_or_path = "org/name"
    assert found.disk(found.work(DEVICES["t4"]))["the start, in the Hub's cache"] == 2 * 494_032_768


def test_sft_first_by_hand(tmp_path):
    """Of 627 training rows, SFT takes half of the prompts: 314 rows in batches of 2 are 157 steps an epoch, for two
    epochs; self-play has the other 314 or 313. The base is evaluated as well as the start.
    """
    found, work = works(tmp_path, start="sft", sft_share=0.5, self_play_prompts="unseen", sft_num_train_epochs=2)
    without, plain = works(tmp_path, start="given")
    assert work[0].seconds["evaluate"] == pytest.approx(2 * plain[0].seconds["evaluate"])
    assert "train" not in plain[0].seconds
    assert work[1].sampled == pytest.approx(plain[1].sampled / 2, rel=0.01)
    once = works(tmp_path, start="sft", sft_share=0.5, sft_num_train_epochs=1)[1][0].seconds["train"]
    assert work[0].seconds["train"] == pytest.approx(2 * once, rel=0.05)
    assert found.disk(work)["models"] > without.disk(plain)["models"]
    # Three checkpoints of float32 weights with AdamW's two states, even if iterations keep none.
    kept, _ = works(tmp_path, start="sft", save_strategy="no")
    weights = 4 * kept.memory.policy.num_parameters
    assert kept.disk(work)["checkpoints"] == pytest.approx(3 * 3 * weights, rel=0.01)


def test_baselines_with_equal_compute_by_hand(tmp_path):
    """A pair of 50 + 100 + 100 tokens is trained on (3 x 250) and scored (250); 50 are prefilled and 100 sampled. That
    makes 1,150, as much as 1,150 / (3 x 150) rows of SFT. SFT first has 314 steps of two rows.
    """
    settings = {
        "num_train_epochs": 1,
        "max_new_tokens": 100,
        "num_iterations": 1,
        "save_strategy": "no",
        "start": "sft",
    }
    settings |= {"sft_num_train_epochs": 1, "per_device_train_batch_size": 2}
    found = {
        (arm, equal): works(tmp_path, baseline=arm, baseline_equal=equal, **settings)
        for arm in ("sft", "sft-best")
        for equal in ("steps", "compute")
    }
    (plan, (start, iteration)) = found["sft", "compute"]
    assert (start.rows, start.compute) == (628, 3 * 628 * 150)
    assert (iteration.rows, iteration.compute) == (627, 627 * 1150)
    trained = {of: made[1][1].seconds["baseline"] - iteration.seconds["evaluate"] for of, made in found.items()}
    assert trained["sft", "compute"] == pytest.approx(trained["sft", "steps"] * 1150 / 450)
    whole = 628 * 450 + 627 * 1150  # compared with as many rows as SFT first and self-play together
    expected = trained["sft-best", "steps"] * whole / (450 * (628 + 627))
    assert trained["sft-best", "compute"] == pytest.approx(expected, rel=0.05)
    assert plan.disk([start, iteration])["models"] == found["sft-best", "steps"][0].disk([start, iteration])["models"]


def test_the_start_scores_what_it_has_not_scored(tmp_path):
    """At iteration 1 these are 627 real and 2 x 627 generated responses (its own, and iteration 0's as history), then
    627.
    """
    settings = {"opponent_mix": 0.5, "num_iterations": 3, "history": 1, "max_new_tokens": 100, "num_train_epochs": 1}
    found, work = works(tmp_path, **settings)
    assert "start's pass" not in work[1].seconds
    first, second = (work[t].seconds["start's pass"] for t in (2, 3))
    assert first == pytest.approx(3 * second)
    speed = found.speed(DEVICES["a100-80"])
    rows, padding = 627, 1.3  # each of 50 + 100 tokens, padded
    operations = ModelCosts(found.memory.replica).forward(padding * rows * 150, padding * rows * 100, 150)
    assert second == pytest.approx(operations / speed.flops)


def test_dpo_on_top_by_hand(tmp_path):
    """100 pairs in batches of 8 are 13 steps an epoch, for DPOConfig's three epochs, on two models, which are then
    evaluated like two iterations; `dpo_max_steps`, if set, is the number of steps.
    """
    pairs = str(tiny.write_jsonl(tmp_path / "pairs.jsonl", tiny.preference(100)))
    settings = {"then_dpo": ["best", "start"], "dpo_name": pairs, "num_iterations": 1}
    found, work = works(tmp_path, **settings)
    assert [one.stage for one in work] == ["start", "iteration-0", "dpo"]
    assert work[-1].steps == 2 * 3 * 13
    assert work[-1].seconds["evaluate"] == pytest.approx(2 * work[1].seconds["evaluate"])
    lengths = found.lengths.preferences
    assert work[-1].trained == pytest.approx(2 * 3 * 100 * lengths.pair)
    few = works(tmp_path, **settings, dpo_max_steps=7)[1][-1]
    assert (few.steps, few.trained) == (14, pytest.approx(2 * 7 * 8 * lengths.pair))
    # Forward, again for checkpointing, and backward, which counts twice; the reference runs over all pairs once.
    passes = [4 * trained + 100 for trained in (300, 56)]
    assert work[-1].seconds["train"] / few.seconds["train"] == pytest.approx(passes[0] / passes[1])
    kept = works(tmp_path, **settings, dpo_activation_checkpointing=False)[1][-1]
    assert kept.seconds["train"] / work[-1].seconds["train"] == pytest.approx((3 * 300 + 100) / passes[0])
    without, plain = works(tmp_path, num_iterations=1)
    assert [one.stage for one in plain] == ["start", "iteration-0"]
    model = without.disk(plain)["models"]
    assert found.disk(work)["models"] == pytest.approx(3 * model, rel=0.01)
