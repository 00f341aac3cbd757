"""The opponent stays at the policy's starting point, and a violation is detected."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny
from messages import names
from spin_trl.errors import OpponentError
from spin_trl.models.digest import START_ADAPTER, digest
from spin_trl.models.forward.batch import Forwards
from spin_trl.training import opponent

pytestmark = pytest.mark.numeric

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
IDS = torch.arange(5, 25).unsqueeze(0)


def adapted(**overrides: Any) -> PeftModel:
    """Return the tiny Llama with an adapter that has an effect, since its B is not zero."""
    torch.manual_seed(3)
    model = get_peft_model(tiny.model(), LoraConfig(**{**LORA, **overrides}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return model.eval()


def scores(model: Any) -> torch.Tensor:
    """Return the model's current logits."""
    with torch.no_grad():
        return model(IDS).logits


def check(policy: list[float], frozen: list[float], tokens: list[int], dtype: torch.dtype = torch.float32) -> None:
    """Run the check on plain numbers."""
    opponent.check_starting_point(
        torch.tensor(policy, requires_grad=True), torch.tensor(frozen), torch.tensor(tokens), dtype
    )


# ---- the check -------------------------------------------------------------------------------------------------------


def test_equal_log_probs_pass_up_to_the_noise_of_the_format() -> None:
    """Noise of independent tokens grows with the square root of their number: 100 tokens may differ by ten times one
    token's.
    """
    for dtype, per_token in opponent.NOISE_PER_TOKEN.items():
        for tokens in (1, 100):
            allowed = per_token * math.sqrt(tokens)
            check([-50.0], [-50.0 + 0.9 * allowed], [tokens], dtype)
            if allowed > 1e-3:  # a smaller difference is lost in float32's own rounding at 50 nats
                with pytest.raises(OpponentError):
                    check([-50.0], [-50.0 + 1.1 * allowed], [tokens], dtype)


def test_the_worst_response_is_named_with_both_numbers() -> None:
    """The message gives the two log-probabilities, the tokens, the tolerance, the likely causes and the way out."""
    with pytest.raises(OpponentError) as failure:
        check([-10.0, -20.0, -30.0], [-10.0, -20.5, -33.25], [4, 9, 16])
    message = str(failure.value)
    assert re.findall(r"-\d+\.\d{4}", message) == ["-30.0000", "-33.2500"], "the policy's first"
    assert names(message, "16 tokens", 0.0008, "`check_opponent: false`")
    assert names(message, "dropout", "weights", "adapter", "dtypes")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_violation(value: float) -> None:
    """fp16 overflow must not pass as agreement."""
    with pytest.raises(OpponentError):
        check([value, -1.0], [-1.0, -1.0], [3, 3])


def test_an_unknown_format_gets_the_widest_tolerance() -> None:
    """A dtype that is not in the table counts as the coarsest one."""
    check([-1.0], [-1.2], [1], torch.float8_e4m3fn)


def test_empty_responses_agree() -> None:
    """With no tokens, the log-probability is 0 under both."""
    check([0.0], [0.0], [0])


def test_the_error_is_a_runtime_error_that_ends_the_command_with_1() -> None:
    """It is a failure of the run, not of its input."""
    assert issubclass(OpponentError, RuntimeError)
    assert OpponentError.exit_code == 1


# ---- recording log-probs --------------------------------------------------------------------------------------------


class Output:
    """The output of a model with a fused head, or of one without."""

    def __init__(self, log_probs: torch.Tensor | None) -> None:
        self.log_probs = log_probs


class Model(torch.nn.Module):
    """Model that returns its input."""

    def forward(self, log_probs: torch.Tensor | None) -> Output:
        return Output(log_probs)


def test_log_probs_are_taken_down_in_order_while_listening() -> None:
    """The policy's come first and the opponent's second, for each listener separately; forwards without a fused head
    are ignored.
    """
    policy, frozen = Model(), Model()
    one, two = torch.ones(2, 3), torch.zeros(2, 3)
    policy(one)
    for _ in range(2):
        with Forwards(None).batch({"input_ids": one}, policy, frozen, None) as passing:
            policy(one)
            policy(None)
            frozen(two)
        assert [id(record) for record in passing.log_probs] == [id(one), id(two)]
        policy(one)
        assert len(passing.log_probs) == 2, "nothing is recorded after the context"


def test_listening_leaves_nothing_on_the_model_even_after_an_error() -> None:
    """A loss that fails leaves no listener behind, and several trainers on one model don't accumulate hooks."""
    policy = Model()
    with pytest.raises(RuntimeError), Forwards(None).batch({"input_ids": torch.ones(2, 1)}, policy) as passing:
        raise RuntimeError
    policy(torch.ones(1, 1))
    assert passing.log_probs == []
    assert not policy._forward_hooks
    assert not policy._forward_pre_hooks


# ---- the frozen adapter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"use_dora": True},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["embed_tokens"], "use_dora": True},
        {"trainable_token_indices": [5, 6, 7]},
    ],
)
def test_a_frozen_copy_speaks_as_the_policy_did(overrides: dict[str, Any]) -> None:
    """However often `freeze_adapter` is called, the copy is the current adapter, and no gradient reaches it."""
    model = adapted(**overrides)
    for _ in range(3):
        expected = scores(model)
        opponent.freeze_adapter(model)
        assert model.active_adapters == ["default"]
        frozen = [parameter for name, parameter in model.named_parameters() if ".ref" in name]
        assert frozen
        assert not any(parameter.requires_grad for parameter in frozen)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".default" in name:
                    parameter.add_(0.1)
        assert not torch.allclose(scores(model), expected)
        with opponent.in_place_of_the_policy(model):
            torch.testing.assert_close(scores(model), expected)
        assert not torch.allclose(scores(model), expected), "the policy is active again"


def test_the_trainable_adapter_stays_trainable() -> None:
    """Freezing and dropping leave the policy's own parameters trainable."""
    model = adapted()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    opponent.freeze_adapter(model)
    with opponent.in_place_of_the_policy(model):
        pass
    opponent.align_frozen_adapter(model)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable
    opponent.drop_frozen_adapters(model)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable
    assert set(model.peft_config) == {"default"}
    opponent.drop_frozen_adapters(model)  # there is none left, which is fine


def test_the_frozen_copy_has_the_policys_dtype() -> None:
    """A bfloat16 adapter with a float32 copy would give log-ratios that are not zero."""
    model = adapted()
    opponent.freeze_adapter(model)
    for name, parameter in model.named_parameters():
        if ".default." in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    opponent.align_frozen_adapter(model)
    pairs = [
        (parameter, model.get_parameter(name.replace(".ref.", ".default.")))
        for name, parameter in model.named_parameters()
        if ".ref." in name
    ]
    assert pairs
    for frozen, own in pairs:
        assert frozen.dtype == torch.bfloat16
        assert torch.equal(frozen, own)
        assert frozen.data_ptr() != own.data_ptr(), "a copy, not the same memory"


def changed(model: PeftModel, adapter: str = "default") -> None:
    """Change the weights of an adapter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{adapter}" in name:
                parameter.add_(0.1)


def test_the_first_opponent_is_kept_as_a_second_frozen_adapter(tmp_path: Path) -> None:
    """Later opponents replace the first one, but not the start; neither is trained or saved."""
    model = adapted()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected, alone = scores(model), digest(model)
    opponent.freeze_adapter(model)
    changed(model)
    opponent.keep_start(model)
    opponent.freeze_adapter(model)
    changed(model)
    opponent.keep_start(model)  # it is already kept
    with opponent.in_place_of_the_policy(model):
        assert not torch.allclose(scores(model), expected)
    with opponent.in_place_of_the_policy(model, START_ADAPTER):
        assert torch.equal(scores(model), expected)
    assert digest(model, of_start=True) == alone != digest(model)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable
    with opponent.without_frozen_adapters(model):
        model.save_pretrained(tmp_path / "saved")
    assert not any(path.is_dir() for path in (tmp_path / "saved").iterdir())
    opponent.drop_frozen_adapters(model)
    assert set(model.peft_config) == {"default"}


def test_the_start_is_the_base_if_the_first_opponent_was() -> None:
    model = adapted()
    opponent.keep_start(model)
    with opponent.in_place_of_the_policy(model, START_ADAPTER):
        torch.testing.assert_close(scores(model), scores(tiny.model()))
    assert digest(model, of_start=True) == digest(tiny.model())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"init_lora_weights": "pissa"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=["lora", "pissa", "dora", "whole module", "embeddings"],
)
def test_a_start_from_a_folder_is_added_next_to_any_adapter(settings: dict[str, Any], tmp_path: Path) -> None:
    """The model's own output and its base stay unchanged."""
    base = tiny.save(tmp_path / "base")
    start = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**LORA, **settings})).eval()
    changed(start)
    start.save_pretrained(tmp_path / "start")
    loaded = AutoModelForCausalLM.from_pretrained(base)
    model = PeftModel.from_pretrained(loaded, tmp_path / "start", is_trainable=True).eval()
    expected = scores(model)
    changed(model)
    own, of_base = scores(model), digest(model, adapter_is_new=True)
    opponent.add_start(model, str(tmp_path / "start"))
    assert torch.equal(scores(model), own)
    assert digest(model, adapter_is_new=True) == of_base
    assert all(not p.requires_grad for name, p in model.named_parameters() if f".{START_ADAPTER}" in name)
    with opponent.in_place_of_the_policy(model, START_ADAPTER):
        torch.testing.assert_close(scores(model), expected)
    assert torch.equal(scores(model), own)


def test_without_an_adapter_or_a_frozen_one_the_base_is_the_opponent() -> None:
    """A new adapter's opponent is the model without it; a model without adapters is unchanged."""
    model, plain = adapted(), tiny.model()
    expected = scores(plain)
    assert not torch.allclose(scores(model), expected)
    for either in (model, plain):
        with opponent.in_place_of_the_policy(either):
            torch.testing.assert_close(scores(either), expected)


def test_saving_leaves_the_frozen_adapter_out_and_in_memory(tmp_path: Path) -> None:
    """`save_pretrained` writes only the trained adapter, and the model is unchanged afterwards, even after an error."""
    model = adapted()
    alone = tmp_path / "alone"
    model.save_pretrained(alone)
    opponent.freeze_adapter(model)
    save = model.save_pretrained
    with opponent.without_frozen_adapters(model):
        model.save_pretrained(tmp_path / "beside")
    with pytest.raises(RuntimeError), opponent.without_frozen_adapters(model):
        raise RuntimeError
    assert model.save_pretrained == save
    assert set(model.peft_config) == {"default", "ref"}
    expected, found = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("alone", "beside"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not (tmp_path / "beside" / "ref").exists()
    with opponent.without_frozen_adapters(tiny.model()) as nothing:
        assert nothing is None
