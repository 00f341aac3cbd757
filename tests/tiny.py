"""Tiny tokenizers, models, datasets and hub caches, created on the spot.

No test of this project downloads anything. What a test needs is built here from a configuration and a seed: the same
call gives the same weights and the same tokens on every machine, and one training step takes milliseconds.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch
from datasets import Dataset, DatasetDict, DatasetInfo, SplitDict, SplitInfo
from datasets.arrow_writer import ArrowWriter
from datasets.naming import camelcase_to_snakecase
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

END_OF_TEXT: Final = "<|endoftext|>"
IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
SPECIAL_TOKENS: Final = (END_OF_TEXT, IM_START, IM_END)

# ChatML as Qwen writes it: the newline after <|im_end|> belongs to the template, not to the answer. `tools` and the
# template variable `style` leave a trace in the text, so a test can see that they reached it.
CHATML: Final = (
    "{%- if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{%- endif %}"
    "{%- if style %}{{ '<|im_start|>system\\nStyle: ' + style + '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') }}"
    "{%- if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{%- endif %}{{ '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)

NAMES: Final = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus")
VERBS: Final = ("paints", "sells", "finds", "hides", "wants")
COLOURS: Final = ("red", "blue", "green", "grey", "black", "white")
THINGS: Final = ("boat", "lamp", "chair", "coat", "drum", "kite", "vase", "bell")

SFTKind = Literal["prompt-completion", "conversational", "messages", "multi-turn", "question-answer", "real-generated"]


# Tokenizer


@functools.cache
def _tokenizer_json() -> str:
    """Return a byte-level BPE vocabulary of at most 400 entries, trained on this module's own sentences."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rows = [_row(index) for index in range(40)]
    corpus = [" ".join(row) for row in rows] + ["system", "user", "assistant"] * 40
    backend.train_from_iterator(corpus, trainer)
    return backend.to_str()


def tokenizer(
    *,
    chat_template: bool | str = True,
    pad_token: str | None = END_OF_TEXT,
    eos_token: str | None = IM_END,
) -> PreTrainedTokenizerFast:
    """Return a fast byte-level BPE tokenizer with fewer than 400 tokens; it encodes any text and decodes it back
    exactly.

    Args:
        chat_template: `True` for ChatML, `False` for none, or the caller's own template.
        pad_token: `None` leaves it out, as Llama's tokenizers do. A token that isn't in the vocabulary is added.
        eos_token: ends a turn of ChatML by default. `None` leaves it out.
    """
    result = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()), clean_up_tokenization_spaces=False
    )
    result.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    if eos_token is not None:
        result.add_special_tokens({"eos_token": eos_token})
    if pad_token is not None:
        result.add_special_tokens({"pad_token": pad_token})
    if chat_template is not False:
        result.chat_template = CHATML if chat_template is True else chat_template
    result.model_max_length = 512
    return result


# Models

# Settings that make each architecture tiny, beyond `_SIZES`. The mixtures have four experts, two of them active, and
# output their router logits, so that TRL adds their auxiliary loss.
_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
_MIXTURE: Final[dict[str, Any]] = {"num_experts_per_tok": 2, "output_router_logits": True}
_ARCHITECTURES: Final[dict[str, dict[str, Any]]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "cohere2": {"sliding_window": 64},
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 64},
    "gemma3_text": {"query_pre_attn_scalar": 8, "sliding_window": 64},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "gpt_neox": {"rotary_pct": 0.5},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "mixtral": {**_MIXTURE, "num_local_experts": 4, "sliding_window": None},
    "qwen2_moe": {
        **_MIXTURE,
        "num_experts": 4,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {**_MIXTURE, "num_experts": 4, "moe_intermediate_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8, "conv_L_cache": 3},
}


def sizes() -> dict[str, Any]:
    """Return the configuration fields that make any text model tiny."""
    return dict(_SIZES)


def architectures() -> tuple[str, ...]:
    """Return the names that `model` knows."""
    return tuple(_ARCHITECTURES)


def model(
    architecture: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any
) -> PreTrainedModel:
    """Return a causal language model of two layers and hidden size 16 over the vocabulary of `tokenizer`.

    The weights depend only on the arguments; the global random state is unchanged. The model ends a text at either of
    the tokenizer's ends. `config._name_or_path` is empty, as for any model created from a configuration, so a trainer
    that loads its reference by name needs `saved_model` instead.

    Args:
        architecture: one of `architectures()`.
        seed: seed of the weights.
        dtype: dtype of the weights.
        overrides: fields of the configuration.
    """
    text = tokenizer()
    ids = {
        "vocab_size": len(text),
        "bos_token_id": None,
        "eos_token_id": text.eos_token_id,
        "pad_token_id": text.pad_token_id,
    }
    config = AutoConfig.for_model(architecture, **{**_SIZES, **ids, **_ARCHITECTURES[architecture], **overrides})
    result = seeded(AutoModelForCausalLM.from_config, config, seed=seed, dtype=dtype)
    result.generation_config = GenerationConfig(
        eos_token_id=[text.eos_token_id, text.convert_tokens_to_ids(END_OF_TEXT)], pad_token_id=text.pad_token_id
    )
    return result


def seeded(build: Any, config: Any, *, seed: int, dtype: torch.dtype) -> PreTrainedModel:
    """Return `build(config)` under its own random state, in `dtype`, with no parameter left at zero.

    Biases and some projections start at zero, norms at one; slightly perturbed, they take part in every comparison.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result: PreTrainedModel = build(config)
        with torch.no_grad():
            for parameter in result.parameters():
                if parameter.ndim == 1 or not parameter.any():
                    parameter.add_(0.02 * torch.randn_like(parameter))
    return result.to(dtype).eval()


def save(
    folder: str | Path,
    model: PreTrainedModel | None = None,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
) -> Path:
    """Save a model (default: the tiny Llama) in safetensors and its tokenizer or processor; return the folder.

    `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load it, and so does a trainer that is
    given the folder as its model.
    """
    folder = Path(folder)
    (globals()["model"]() if model is None else model).save_pretrained(folder)
    (tokenizer() if processing_class is None else processing_class).save_pretrained(folder)
    return folder


def saved_model(
    folder: str | Path, architecture: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Return the tiny model saved in `folder` with its tokenizer and loaded from there, so that TRL finds its reference."""
    path = save(folder, model(architecture, seed=seed, dtype=dtype))
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


# Hub caches


DatasetSource: TypeAlias = Dataset | DatasetDict | Mapping[str, Dataset | DatasetDict]


def hub_cache(
    folder: str | Path,
    ids: Mapping[str, PreTrainedModel | str | tuple[PreTrainedModel, PreTrainedTokenizerBase | ProcessorMixin]],
    datasets: Mapping[str, DatasetSource] | None = None,
) -> Path:
    """Lay tiny models and datasets out as the Hub's own cache; return the folder, for HF_HUB_CACHE.

    With HF_HUB_CACHE set to it and HF_HUB_OFFLINE=1 (both before `huggingface_hub` is imported), `from_pretrained`
    finds the models by their Hub ids and `snapshot_download(..., repo_type="dataset")` the datasets. Offline,
    `load_dataset` looks elsewhere: see `datasets_cache`.

    Args:
        folder: where to write `models--org--name/{refs/main,snapshots/SHA/...}`.
        ids: Hub id to a model, an architecture's name, or a pair (model, tokenizer or processor).
        datasets: Hub id to a dataset (its only split is `train`), a `DatasetDict`, or those by configuration name.
            Written as `[CONFIG/]SPLIT-00000-of-00001.parquet`.
    """
    folder = Path(folder)
    for name, source in ids.items():
        if isinstance(source, str):
            source = model(source)
        weights, processing_class = source if isinstance(source, tuple) else (source, tokenizer())
        save(_snapshot(folder, "models", name), weights, processing_class)
    for name, data in (datasets or {}).items():
        snapshot = _snapshot(folder, "datasets", name)
        for config, splits in _by_config(data).items():
            target = snapshot if config == "default" else snapshot / config
            target.mkdir(parents=True, exist_ok=True)
            for split, rows in splits.items():
                rows.to_parquet(target / f"{split}-00000-of-00001.parquet")
    return folder


def datasets_cache(folder: str | Path, datasets: Mapping[str, DatasetSource]) -> Path:
    """Lay datasets out as `datasets` itself caches them; return the folder, for HF_DATASETS_CACHE or `cache_dir`.

    `load_dataset("org/name", "config", split=...)` then finds them by their Hub ids with HF_HUB_OFFLINE=1.
    """
    folder = Path(folder)
    for name, data in datasets.items():
        short = name.split("/")[-1]
        owner_and_name = "___".join([*name.split("/")[:-1], camelcase_to_snakecase(short)])
        for config, splits in _by_config(data).items():
            target = folder / owner_and_name / config / "0.0.0" / hashlib.sha1(name.encode()).hexdigest()
            target.mkdir(parents=True, exist_ok=True)
            split_infos = SplitDict(dataset_name=short)
            for split, rows in splits.items():
                with ArrowWriter(
                    path=str(target / f"{camelcase_to_snakecase(short)}-{split}.arrow"), features=rows.features
                ) as writer:
                    for row in rows:
                        writer.write(row)
                    writer.finalize()
                split_infos.add(SplitInfo(name=split, num_examples=len(rows), dataset_name=short))
            info = DatasetInfo(
                features=next(iter(splits.values())).features,
                builder_name="parquet",
                dataset_name=short,
                config_name=config,
                version="0.0.0",
                splits=split_infos,
            )
            info.write_to_directory(str(target))
    return folder


def _by_config(data: DatasetSource) -> dict[str, dict[str, Dataset]]:
    """Return a dataset's splits by the name of its configuration, in whichever form it was given."""
    by_config = {"default": data} if isinstance(data, Dataset | DatasetDict) else data
    return {
        config: {"train": content} if isinstance(content, Dataset) else {str(k): v for k, v in content.items()}
        for config, content in by_config.items()
    }


def _snapshot(folder: Path, kind: str, name: str) -> Path:
    """Return the snapshot folder of a repository, with `refs/main` pointing at it."""
    commit = hashlib.sha1(name.encode()).hexdigest()
    repository = folder / f"{kind}--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot


# Datasets


def _row(index: int) -> tuple[str, str, str]:
    """Return prompt, good and bad response number `index`: 1,680 different ones, of different lengths."""
    name = NAMES[index % 7]
    verb = VERBS[index % 5]
    colour = COLOURS[index // 7 % 6]
    thing = THINGS[index % 8]
    prompt = f"{name} {verb} a {colour} {thing}. Which {thing}?" if index % 3 else f"{name} {verb} what? A {thing}."
    good = f"The {colour} {thing}, which {name} {verb}." if index % 2 else f"The {colour} {thing}."
    bad = "No idea." if index % 4 == 0 else f"{name} {verb} a {THINGS[(index + 3) % 8]}."
    return prompt, good, bad


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def preference(n: int = 8, conversational: bool = False, implicit_prompt: bool = False) -> Dataset:
    """Return `n` preference pairs in one of TRL's four formats.

    Standard text has no space at the end of the prompt and one at the start of the responses, so no token crosses the
    boundary.

    Args:
        n: number of rows.
        conversational: lists of messages instead of text.
        implicit_prompt: no `prompt` column; `chosen` and `rejected` each begin with it.
    """
    rows: list[dict[str, Any]] = []
    for index in range(n):
        text, good, bad = _row(index)
        prompt: Any = text
        chosen: Any = " " + good
        rejected: Any = " " + bad
        if conversational:
            prompt = [_message("user", text)]
            chosen, rejected = [_message("assistant", good)], [_message("assistant", bad)]
        if implicit_prompt:
            rows.append({"chosen": prompt + chosen, "rejected": prompt + rejected})
        else:
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return Dataset.from_list(rows)


def sft(n: int = 8, kind: SFTKind = "prompt-completion") -> Dataset:
    """Return `n` rows of an SFT dataset with the same prompts and good responses as `preference`.

    Args:
        n: number of rows.
        kind: `prompt-completion` (text), `conversational` (`prompt` and `completion` as messages), `messages`,
            `multi-turn` (`messages` with two user and two assistant turns), `question-answer` (columns of those names)
            or `real-generated` (UCLA's columns: two conversations that share the user's turn).
    """
    return Dataset.from_list([_sft_row(index, kind) for index in range(n)])


def _sft_row(index: int, kind: SFTKind) -> dict[str, Any]:
    prompt, good, bad = _row(index)
    match kind:
        case "prompt-completion":
            return {"prompt": prompt, "completion": " " + good}
        case "conversational":
            return {"prompt": [_message("user", prompt)], "completion": [_message("assistant", good)]}
        case "messages":
            return {"messages": [_message("user", prompt), _message("assistant", good)]}
        case "multi-turn":
            second, better, _ = _row(index + 1)
            turns = (("user", prompt), ("assistant", good), ("user", second), ("assistant", better))
            return {"messages": [_message(*turn) for turn in turns]}
        case "question-answer":
            return {"question": prompt, "answer": good}
        case "real-generated":
            user = _message("user", prompt)
            return {"real": [user, _message("assistant", good)], "generated": [user, _message("assistant", bad)]}
        case _:
            raise ValueError(f"unknown kind of SFT dataset: {kind!r}")


def write_jsonl(path: str | Path, rows: Dataset) -> Path:
    """Write a dataset as JSON lines; return the path."""
    path = Path(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_list()), encoding="utf-8")
    return path
