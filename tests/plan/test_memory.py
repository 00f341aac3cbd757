"""Peak memory of the phases is compared with sums by hand and with peaks measured while small models train and generate."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import spin_trl
import tiny
from plan.shapes import ZEPHYR, folder, recipe, small
from spin_trl.plan.devices import Device
from spin_trl.plan.memory import CONTEXT, state_bytes
from spin_trl.plan.planning import Wishes, make_plan


def plan(tmp_path, config, on_gpu=True, wishes=None, **settings):
    tmp_path.mkdir(exist_ok=True)
    path = recipe(tmp_path, folder(tmp_path / "model", config), **settings)
    return make_plan(path, [], wishes or Wishes(), on_gpu=on_gpu)


def phase(found, name):
    (one,) = [phase for phase in found.phases if phase.name == name]
    return one


@pytest.fixture(scope="module")
def benchmark():
    """Load benchmarks/plan.py, whose measurement code is also used here."""
    path = Path(spin_trl.__file__).parents[1] / "benchmarks" / "plan.py"
    spec = importlib.util.spec_from_file_location("plan_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_peft": True, "lora_target_modules": ["all-linear"], "activation_checkpointing": True},
        {"use_peft": True, "load_in_4bit": True, "lora_target_modules": ["all-linear"]},
    ],
    ids=["full", "lora, checkpointing", "lora, 4-bit"],
)
def test_planned_peaks_are_the_measured_ones(benchmark, tmp_path, settings):
    """They are within the promised 30 %, and deterministic on a CPU."""
    model = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2}
    bench = benchmark.Bench(benchmark.Case(model, settings), tmp_path)
    assert bench.training().ratio == pytest.approx(1, abs=0.3)
    assert bench.answering().ratio == pytest.approx(1, abs=0.3)


@pytest.mark.slow
def test_zephyr_in_eight_shards(tmp_path):
    """ZeRO-3 by hand: 2 bytes per weight, float32 weights and RMSprop's one state, and float32 gradients, over 8 GPUs,
    plus as many gathered weights as DeepSpeed allows. The cache has 32 layers of 8 heads of 128, keys and values, 2
    bytes each.
    """
    found = plan(
        tmp_path,
        ZEPHYR,
        dtype="bfloat16",
        optim="rmsprop",
        accelerate_config="zero3",
        max_new_tokens=192,
        generation_batch_size=8,
        per_device_train_batch_size=1,
    )
    trained = phase(found, "train").parts
    assert trained["weights"] == pytest.approx(2 * 7_241_732_096 / 8 + 2 * 10**9, rel=0.001)
    assert trained["optimiser"] == pytest.approx((4 + 4) * 7_241_732_096 / 8, rel=0.001)
    assert trained["gradients"] == pytest.approx(4 * 7_241_732_096 / 8, rel=0.001)
    answering = phase(found, "generate").parts
    assert answering["weights"] == pytest.approx(2 * 7_241_732_096, rel=0.001)  # full replicas
    assert found.memory.cache_bytes_per_token == pytest.approx(32 * 8 * 128 * 2 * 2, rel=0.001)
    a_layer_twice = 33 / 32
    assert answering["KV cache"] == pytest.approx(8 * 256 * 32 * 8 * 128 * 2 * 2 * a_layer_twice, rel=0.001)


@pytest.mark.slow
def test_checkpointing_and_smaller_batches_take_less(tmp_path):
    as_is = plan(tmp_path, small(), activation_checkpointing=False, per_device_train_batch_size=8)
    (tmp_path / "b").mkdir()
    checkpointed = plan(tmp_path / "b", small(), activation_checkpointing=True, per_device_train_batch_size=8)
    (tmp_path / "c").mkdir()
    smaller = plan(tmp_path / "c", small(), activation_checkpointing=False, per_device_train_batch_size=4)
    activations = [phase(found, "train").parts["activations"] for found in (as_is, checkpointed, smaller)]
    assert activations[1] < 0.8 * activations[0]
    assert activations[2] < 0.7 * activations[0]


def test_the_opponent_of_an_adapter_is_a_second_one(tmp_path):
    """This needs two iterations; with one, the opponent is the bare model."""
    found = plan(tmp_path, small(), use_peft=True)
    assert phase(found, "train").parts["adapters"] == 2 * phase(found, "generate").parts["adapters"]
    (tmp_path / "b").mkdir()
    one = plan(tmp_path / "b", small(), use_peft=True, num_iterations=1)
    assert phase(one, "train").parts["adapters"] == phase(found, "generate").parts["adapters"]


def test_a_smoothed_supervised_arm_holds_all_logits(tmp_path):
    """SFTTrainer then computes them for every token: 8 rows of 256 tokens and a vocabulary of 20,000, at least twice
    in float32. Without smoothing it computes them in tiles, and holds one response of a pair, not two.
    """
    settings = {"baseline": "sft", "per_device_train_batch_size": 8}
    smoothed = plan(tmp_path, small(vocab_size=20_000), **settings, baseline_label_smoothing=[0.1])
    assert phase(smoothed, "baseline").total > 2 * 4 * 8 * 256 * 20_000
    (tmp_path / "b").mkdir()
    plain = plan(tmp_path / "b", small(vocab_size=20_000), **settings)
    assert phase(plain, "baseline").total < phase(plain, "train").total < phase(smoothed, "baseline").total


def test_sft_first_may_train_another_adapter_than_self_play(tmp_path):
    """Full SFT holds optimiser states for all weights, two of them in float32; an adapter's are far smaller."""
    full = plan(tmp_path, small(), start="sft", use_peft=True, sft_use_peft=False)
    weights = phase(full, "start").parts["weights"]
    assert phase(full, "start").parts["optimiser"] == pytest.approx(2 * weights, rel=0.01)
    assert phase(full, "train").parts["optimiser"] < 0.2 * weights
    (tmp_path / "b").mkdir()
    adapted = plan(tmp_path / "b", small(), start="sft", use_peft=True)
    assert phase(adapted, "start").parts["optimiser"] < 0.2 * weights
    assert phase(adapted, "train").parts["adapters"] == 2 * phase(adapted, "generate").parts["adapters"]


def test_sft_and_dpo_may_recompute_activations_when_iterations_do_not(tmp_path):
    """Checkpointing keeps less for the backward pass, and only where it is set."""
    pairs = str(tiny.write_jsonl(tmp_path / "pairs.jsonl", tiny.preference(20)))
    settings = {"start": "sft", "then_dpo": "best", "dpo_name": pairs, "num_iterations": 1}
    settings |= {
        "activation_checkpointing": False,
        "dpo_per_device_train_batch_size": 4,
        "precompute_ref_batch_size": 1,
    }
    plain = plan(tmp_path, small(), **settings)
    for name, stage in (("sft_activation_checkpointing", "start"), ("dpo_activation_checkpointing", "dpo")):
        found = plan(tmp_path / stage, small(), **settings, **{name: True})
        assert phase(found, stage).parts["activations"] < phase(plain, stage).parts["activations"]
        others = {"start", "train", "dpo"} - {stage}
        assert [phase(found, one).parts for one in others] == [phase(plain, one).parts for one in others]


def test_dpo_on_top_by_hand(tmp_path):
    """A step has no second model, and with an adapter a frozen copy of it; logits of 2 x 2 responses are half of those
    of 2 x 4. The reference's pass has neither gradients nor optimiser states."""
    pairs = str(tiny.write_jsonl(tmp_path / "pairs.jsonl", tiny.preference(20)))
    size = "dpo_per_device_train_batch_size"
    settings = {"then_dpo": "best", "dpo_name": pairs, "num_iterations": 1, "precompute_ref_batch_size": 1}
    found = plan(tmp_path, small(), **settings, **{size: 4})
    assert found.lengths.preferences.longest == (64, 64, 64)  # as assumed without the data
    ours, usual = phase(found, "dpo").parts, phase(found, "train").parts
    assert [ours[part] for part in ("weights", "gradients", "optimiser")] == [
        usual[part] for part in ("weights", "gradients", "optimiser")
    ]
    few, sgd = (
        phase(plan(tmp_path / name, small(), **settings, **more), "dpo").parts
        for name, more in (("few", {size: 2}), ("sgd", {size: 4, "dpo_optim": "sgd"}))
    )
    assert ours["logits"] == pytest.approx(2 * few["logits"])
    assert "optimiser" not in sgd
    settings |= {"precompute_ref_batch_size": 64}
    reference = phase(plan(tmp_path / "reference", small(), **settings), "dpo").parts
    assert not {"gradients", "optimiser"} & reference.keys()
    adapted = plan(tmp_path / "adapted", small(), **settings, use_peft=True)
    assert phase(adapted, "dpo").parts["adapters"] == 2 * phase(adapted, "generate").parts["adapters"]
    assert "dpo" not in [one.name for one in plan(tmp_path / "none", small(), num_iterations=1).phases]


def test_reference_free_losses_have_no_pass_of_the_opponent(tmp_path):
    found = plan(tmp_path, small(), loss_type="simpo")
    assert [one.name for one in found.phases] == ["generate", "train", "evaluate"]


def test_the_start_that_is_mixed_in_scores_alone(tmp_path):
    """It is a whole replica without a second model, so it has as many weights as in generation."""
    found = plan(tmp_path, small(), opponent_mix=0.5, num_iterations=2)
    names = ["generate", "start's pass", "opponent's pass", "train", "evaluate"]
    assert [one.name for one in found.phases] == names
    assert phase(found, "start's pass").parts["weights"] == phase(found, "generate").parts["weights"]
    assert phase(found, "start's pass").parts["activations"] > 0


def test_a_mixture_of_experts_is_followed_too(tmp_path):
    from transformers import MixtralConfig

    config = MixtralConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    assert phase(plan(tmp_path, config, dtype="bfloat16"), "train").parts["activations"] > 0


@pytest.mark.parametrize(
    ("optim", "expected"),
    [
        ("adamw_torch_fused", 8 * 1_010_000),
        ("rmsprop", 4 * 1_010_000),
        ("sgd", 0),
        # 8 bits for 4,096 values or more, with a float32 for each block of 256
        ("paged_adamw_8bit", 2 * (1_000_000 + 4 * 3907) + 2 * (10_000 + 4 * 40)),
        ("adafactor", 4 * (2000 + 200)),
    ],
)
def test_bytes_of_an_optimiser(optim, expected):
    """For two matrices of 1000 x 1000 and 100 x 100 values."""
    matrices = [torch.empty(1000, 1000), torch.empty(100, 100)]
    assert state_bytes(optim, matrices) == expected


def test_an_automatic_batch_size_is_what_fits_the_device(tmp_path):
    """By hand: a row ends with 2 layers' keys and values of 2 heads of 16 in float32 for 256 tokens, a copy of one layer's,
    and 20 bytes for each of 512 logits. A prompt of half a row takes less than that.
    """
    row = 2 * 2 * 2 * 16 * 4 * 256 * 1.5 + 20 * 512
    path = recipe(tmp_path, folder(tmp_path / "model", small()), generation_batch_size="auto")
    found = make_plan(path, [], Wishes(), on_gpu=True, device=Device("d", 1, 10, 100))
    memory = found.memory
    assert memory.batch_size == 256  # a GiB holds more than a shard's responses
    weights = phase(found, "generate").parts["weights"]
    for rows, expected in ((40, 32), (100, 64)):
        memory.device_bytes = weights + CONTEXT + rows * row / 0.9
        vars(memory).pop("batch_size")
        assert memory.batch_size == expected
        [generate] = memory.phases(only={"generate"})
        assert generate.total < memory.device_bytes
    for changes in ({"device_bytes": None}, {"setup": SimpleNamespace(args=memory.setup.args, on_gpu=False)}):
        vars(memory).update(changes)
        vars(memory).pop("batch_size")
        assert memory.batch_size == 64  # no device is known, or it is a CPU


def test_servers_that_exist_already_take_no_memory_here(tmp_path):
    """The model is loaded before they answer, to score responses as the start does for `opponent_mix`; nothing is cached."""
    servers = {"engine": "server", "server_urls": ["http://localhost:8000"], "precompute_ref_batch_size": 6}
    found = plan(tmp_path, small(), opponent_mix=0.5, **servers)
    generate = phase(found, "generate")
    assert "KV cache" not in generate.parts
    assert generate.parts == phase(found, "start's pass").parts
    assert found.smaller_rows(generate) == ["precompute_ref_batch_size", "max_length"]


@pytest.mark.parametrize(("on_gpu", "rows"), [(True, 1), (False, 40)])
def test_continuous_batching_has_a_cache_for_its_own_number_of_responses(on_gpu, rows, tmp_path):
    """On a GPU for one at least, on a CPU for `generation_concurrency`; `generation_batch_size` has no effect."""
    settings = {"generation_continuous": True, "generation_concurrency": 40, "generation_batch_size": 8}
    found = plan(tmp_path / "continuous", small(), on_gpu, **settings)
    batches = plan(tmp_path / "batches", small(), on_gpu, generation_batch_size=rows)
    assert phase(found, "generate") == phase(batches, "generate")
    assert "generation_batch_size" in batches.smaller_rows(phase(batches, "generate"))
    assert "generation_batch_size" not in found.smaller_rows(phase(found, "generate"))
