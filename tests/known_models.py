"""Models whose every answer is known without running them: real architectures, real caches, weights set by hand. And where a
pretrained one is, if it was fetched.

Attention and feed-forward layers add nothing (their output projections are zero), so the rest can be computed on
paper: `scripted` writes a fixed text by position, `bigram` has given next-token probabilities.
"""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from spin_trl.config.fetched import folder_of


def fetched_folder(name: str) -> Path:
    """Return the folder of a pretrained model, which exists if `spin-trl fetch` has been run by this user.

    The tests have their own home folder; the model is in the user's.
    """
    return Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache", "spin_trl", "models", folder_of(name).name)


def scripted(script: Sequence[int], *, vocab_size: int, start: int = 0, num_positions: int = 256) -> GPT2LMHeadModel:
    """Return a GPT-2 that continues any text of n tokens with `script[n - start:]`.

    Args:
        script: the token at position `start`, the one at `start + 1`, ...
        vocab_size: size of the vocabulary.
        start: tokens before the script, i.e. the length of the prompt that it answers.
        num_positions: maximum number of tokens.
    """
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=num_positions,
        n_embd=len(script) + 2,
        n_layer=1,
        n_head=1,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        _without_layers(model, ("attn.c_proj", "mlp.c_proj"))
        model.transformer.wte.weight.zero_()
        model.transformer.wpe.weight.zero_()
        model.lm_head.weight.zero_()
        # Position p determines the token at p + 1: each has its own direction, which the final norm preserves.
        for place, token in enumerate(script):
            model.transformer.wpe.weight[start + place - 1, place] = 1.0
            model.lm_head.weight[token, place] = 10.0
    return model


def bigram(logits: torch.Tensor) -> LlamaForCausalLM:
    """Return a Llama whose next-token logits depend on the last token alone.

    Args:
        logits: logits of the next token (columns) after each token (rows), shape (vocabulary, vocabulary).
    """
    size = logits.size(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=False,
        rms_norm_eps=0.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        _without_layers(model, ("o_proj", "down_proj"))
        # The norm scales a unit vector to length sqrt(size).
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(logits.T / size**0.5)
    return model


def _without_layers(model: torch.nn.Module, names: tuple[str, ...]) -> None:
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.zero_()
