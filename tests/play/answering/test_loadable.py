"""An adapter that vLLM would refuse is served as a merged model, from a folder that exists only while it is served."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from messages import refused
from spin_trl.errors import LaunchError
from spin_trl.models.policy import load_policy, load_tokenizer
from spin_trl.play.answering.loadable import loadable
from spin_trl.run.run import Run


def saved(run: Run, folder: Path, config: LoraConfig, tokens: int | None = None) -> str:
    """Save an adapter of the run's model that has learned something, perhaps with embeddings for more tokens."""
    base = AutoModelForCausalLM.from_pretrained(run.given_model)
    if tokens is not None:
        base.resize_token_embeddings(tokens, mean_resizing=False)
    config.task_type = "CAUSAL_LM"
    model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return str(folder)


def logps(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([ids])).logits.log_softmax(-1)


def test_what_vllm_loads_is_left_alone(run: Run, tmp_path: Path) -> None:
    path = saved(run, tmp_path / "adapter", LoraConfig(r=4, target_modules=["q_proj"]))
    for one in (run.given_model, path):
        with loadable(run, one, tmp_path / "place", "float32") as found:
            assert found == one
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize("kind", ["DoRA", "added tokens"])
def test_what_vllm_refuses_is_merged_for_as_long_as_it_is_served(run: Run, tmp_path: Path, kind: str) -> None:
    """With log-probabilities as those of the adapter, also of tokens that the base model does not have."""
    config, tokens = LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "down_proj"]), None
    if kind == "added tokens":
        tokens = len(run.tokenizer()) + 3
        config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    path = saved(run, tmp_path / "adapter", config, tokens)
    policy = load_policy(path, run.args)
    assert isinstance(policy, PeftModel)
    ids = [5, 9, 17, (tokens or 10) - 1]
    with loadable(run, path, tmp_path / "place", "float32") as folder:
        assert Path(folder).parent == tmp_path / "place"
        torch.testing.assert_close(logps(load_policy(folder, run.args), ids), logps(policy, ids), atol=1e-4, rtol=1e-4)
        assert load_tokenizer(folder, run.args)("a b")["input_ids"] == run.tokenizer()("a b")["input_ids"]
    assert list((tmp_path / "place").iterdir()) == []


def test_it_is_saved_in_the_format_that_it_is_served_in(run: Run, tmp_path: Path) -> None:
    path = saved(run, tmp_path / "adapter", LoraConfig(r=4, use_dora=True, target_modules=["q_proj"]))
    with loadable(run, path, tmp_path / "place", "bfloat16") as folder:
        assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_it_is_removed_if_serving_fails_and_so_is_what_a_kill_has_left(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "place"
    others = [
        f".merged-{socket.gethostname()}-{number}.tmp" for number in ("999999999", str(os.getpid()), str(os.getppid()))
    ]
    for name in others:
        (place / name).mkdir(parents=True)
    path = saved(run, tmp_path / "adapter", LoraConfig(r=4, use_dora=True, target_modules=["q_proj"]))
    with pytest.raises(LaunchError), loadable(run, path, place, "float32"):
        raise LaunchError("The server ended.")
    assert [folder.name for folder in place.iterdir()] == others[2:]  # that of another process that runs


def test_what_can_not_be_merged_is_refused_with_the_reason(run: Run, tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], alora_invocation_tokens=[3])
    path = saved(run, tmp_path / "adapter", config)
    with (
        refused(LaunchError, path, "`alora_invocation_tokens`", "`engine: transformers`"),
        loadable(run, path, tmp_path / "place", "float32"),
    ):
        pass
    assert not (tmp_path / "place").exists()
