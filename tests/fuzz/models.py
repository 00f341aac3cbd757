"""Starts: models, tokenizers and adapters that are damaged, incomplete, or describe themselves wrongly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from . import values
from .materials import Materials
from .parts import Input, put, settings_of, write_recipe

CONFIG = {
    "vocab_size": (0, -1, 1, 10, 10**9, "a", None, 1.5, [400]),
    "hidden_size": (0, -1, 1, 7, 10**7, "16", None),
    "intermediate_size": (0, -1, 1, "a", None),
    "num_hidden_layers": (0, -1, 2, 3, 10**4, "a", None),
    "num_attention_heads": (0, -1, 3, "a", None),
    "num_key_value_heads": (0, -1, 3, "a", None),
    "head_dim": (0, -1, 3, "a", None),
    "max_position_embeddings": (0, -1, 1, 2, "a", None),
    "initializer_range": (-1, "a", None),
    "rms_norm_eps": (0, -1, "a", None),
    "hidden_act": ("nothing", "", 3, None),
    "model_type": ("bert", "t5", "gpt2", "whisper", "nothing", "", 3, None, "llava", "mamba", "vit"),
    "architectures": ([], ["Nothing"], "LlamaForCausalLM", 3, None, ["BertModel"], ["LlamaForSequenceClassification"]),
    "dtype": ("float33", "float16", "bfloat16", "int8", "auto", 3, None, "torch.float32"),
    "torch_dtype": ("float33", "float16", 3, None),
    "eos_token_id": (-1, 10**6, [], [1, "a"], "a", None, [[1]], 1.5, True),
    "bos_token_id": (-1, 10**6, "a", None),
    "pad_token_id": (-1, 10**6, "a", None),
    "rope_parameters": ({}, {"rope_type": "nothing"}, {"rope_type": "yarn"}, 3, None, {"rope_theta": 0}),
    "rope_scaling": ({}, {"type": "linear"}, {"rope_type": "linear", "factor": "a"}, {"factor": 0}, 3, []),
    "rope_theta": (0, -1, "a", None),
    "quantization_config": (
        {}, {"quant_method": "nothing"}, {"quant_method": "gptq", "bits": 4}, {"load_in_4bit": True}, 3, [],
        {"quant_method": "bitsandbytes", "load_in_8bit": True}, {"quant_method": "awq"}, {"quant_method": "fp8"},
    ),
    "attn_implementation": ("nothing", "flash_attention_2", 3, "eager"),
    "attention_bias": (True, "a", None),
    "mlp_bias": (True, None),
    "attention_dropout": (2.0, -1, "a"),
    "tie_word_embeddings": (True, "a", None),
    "use_cache": (False, "a", None),
    "sliding_window": (0, 1, "a"),
    "auto_map": ({"AutoModelForCausalLM": "modeling.Model"}, {"AutoConfig": "nothing"}, 3, {"AutoTokenizer": ["a", None]}),
    "is_encoder_decoder": (True,),
    "is_decoder": (False,),
    "text_config": ({}, 3),
    "transformers_version": ("99.0", 3, None),
    "pretraining_tp": (2, 0, "a"),
    "output_hidden_states": (True, "a"),
    "return_dict": (False, "a"),
    "problem_type": ("nothing",),
    "id2label": (3, {"a": "b"}),
    "num_labels": ("a", -1),
}  # fmt: skip
"""Possible values in a model's configuration, by key."""

TOKENIZER = {
    "eos_token": (None, "", "a", "<|nowhere|>", 3, [], {"content": "a"}, {"__type": "AddedToken"}),
    "pad_token": (None, "", "<|nowhere|>", 3, {}),
    "bos_token": ("<|nowhere|>", 3),
    "unk_token": ("<|nowhere|>", 3),
    "tokenizer_class": ("Nothing", "LlamaTokenizer", "BertTokenizer", "GPT2Tokenizer", "T5Tokenizer", 3, None,
                        "PreTrainedTokenizer"),
    "model_max_length": (0, -1, 1, "a", None, 1.5, 10**30),
    "padding_side": ("nothing", "left", 3, None),
    "truncation_side": ("nothing", 3),
    "chat_template": ("", 3, None, [], {}, [{"name": "a", "template": "b"}], [{"name": "default"}], "{%", "{{ messages }}",
                      {"default": "{{ messages }}"}),
    "added_tokens_decoder": ({}, 3, {"a": 1}, {"0": {"content": "a"}}, {"999999": {"content": "a"}},
                             {"-1": {"content": ""}}),
    "additional_special_tokens": (3, "a", [3], [None], ["<|new|>"]),
    "extra_special_tokens": ([], {"a": "b"}, 3, {"image_token": "<image>"}),
    "add_bos_token": (True, "a"),
    "add_eos_token": (True, "a"),
    "auto_map": ({"AutoTokenizer": ["a.B", None]}, 3),
    "split_special_tokens": (True, "a"),
    "clean_up_tokenization_spaces": (True, "a", None),
    "name_or_path": (3, None),
    "backend": ("nothing", 3),
}  # fmt: skip
"""Possible values in a tokenizer's configuration, by key."""

GENERATION = {
    "eos_token_id": (-1, 10**6, [], "a", [None], None),
    "temperature": (0, -1, "a", None),
    "top_p": (0, 2, "a"),
    "top_k": (-1, "a"),
    "max_length": (0, -1, "a"),
    "max_new_tokens": (0, -1, "a"),
    "num_beams": (0, 3, "a"),
    "cache_implementation": ("nothing", 3, "static"),
    "do_sample": ("a", None),
    "repetition_penalty": (0, -1, "a"),
    "bad_words_ids": ([[]], [["a"]], 3),
    "suppress_tokens": ([10**6], "a"),
    "forced_eos_token_id": (10**6, "a"),
    "num_return_sequences": (0, 5),
    "guidance_scale": (2.0, "a"),
    "stop_strings": ("a", 3, []),
    "pad_token_id": (-1, 10**6, "a"),
    "return_dict_in_generate": (True,),
    "watermarking_config": (3, {"a": 1}),
    "prompt_lookup_num_tokens": (3, "a"),
    "constraints": ([3],),
}  # fmt: skip
"""Possible values in a model's generation config, by key."""

ADAPTER = {
    "base_model_name_or_path": (None, "", "missing", "./missing", ".", 3, "me/nothing", "/", "a" * 300, "a\x00b"),
    "peft_type": ("NOTHING", None, 3, "IA3", "PREFIX_TUNING", "PROMPT_TUNING", "XLORA", "lora"),
    "task_type": ("NOTHING", None, 3, "SEQ_CLS"),
    "r": (0, -1, 1, 10**6, "a", None, 1.5),
    "lora_alpha": (0, "a", None, "nan"),
    "lora_dropout": (2, -1, "a", None),
    "target_modules": ([], ["nothing"], "nothing", "(", 3, None, "all-linear", {"a": 1}),
    "modules_to_save": (["lm_head"], ["nothing"], 3, "a"),
    "rank_pattern": ({"q_proj": 0}, {"(": 1}, 3, {"q_proj": "a"}),
    "layers_to_transform": ([99], "a", 0),
    "bias": ("nothing", "all", 3),
    "use_dora": (True, "a"),
    "use_rslora": (True, "a"),
    "init_lora_weights": ("nothing", "pissa", 3),
    "auto_mapping": ({"base_model_class": "Nothing", "parent_library": "nothing"}, 3),
    "megatron_config": ({}, 3),
    "trainable_token_indices": ([10**6], ["a"], 3),
    "peft_version": (3, "99"),
    "revision": ("nothing", 3),
    "inference_mode": (False, "a"),
    "unknown": (3,),
}  # fmt: skip
"""Possible values in an adapter's configuration, by key."""

SAYS: dict[str, dict[str, tuple[Any, ...]]] = {
    "config.json": CONFIG,
    "tokenizer_config.json": TOKENIZER,
    "generation_config.json": GENERATION,
    "adapter_config.json": ADAPTER,
}

TEMPLATES = (
    "", " ", "{", "{{", "{%", "{% endfor %}", "{% for message in messages %}", "{{ 1 / 0 }}", "{{ nothing.of.this }}",
    "{{ messages[99].content }}", "{{ messages[0]['content'][0]['text'] }}", "{{ raise_exception('No.') }}",
    "{{ raise_exception(3) }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ ''.__class__.__mro__ }}",
    "{% include 'a' %}", "{% import 'a' as a %}", "{% extends 'a' %}", "{% generation %}",
    "{% generation %}{% endgeneration %}",
    "{{ messages.append(1) }}", "{{ messages | nothing }}", "{% if messages is nothing %}{% endif %}", "always the same",
    "{{ messages }}", "{{ messages | tojson }}", "{{ messages[-1].content }}", "{{ messages[0].role }}",
    "{% for message in messages %}{{ message.content }}{% endfor %}", "{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}",
    "{% for a in range(10**9) %}{{ a }}{% endfor %}", "{{ 'a' * 10**10 }}", "{{ range(10**9) | list }}", "\x00",
    "\ufeff{{ messages }}",
    "{% for message in messages %}{{ message.content | upper }}{% endfor %}", "{{ bos_token }}{{ eos_token }}",
    "{{ tools }}",
    "{% for message in messages %}{{ message.content.split('a')[1] }}{% endfor %}", "{% set a = messages.pop() %}{{ a }}",
    "{% for message in messages %}{{ message.content | trim }}{{ eos_token }}{% endfor %}",
    "{{ messages[0].content + 3 }}",
    "{% for message in messages[::-1] %}{{ message.role }}{{ message.content }}{% endfor %}", "{% raw %}", "{# ",
    "{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "{% if a %}" * 200, "{{ \ud800 }}", "{% break %}", "{{ [].__init__ }}",
)  # fmt: skip
"""Invalid chat templates, or ones that lose their input."""


def _add_adapter(folder: Path, rng: Random) -> None:
    """Put an adapter on a model, in a separate folder or in that of its base."""
    rank, size = 2, 16
    weights = {}
    for name in ("q_proj", "v_proj"):
        out = {"q_proj": 16, "v_proj": 8}[name]
        prefix = f"base_model.model.model.layers.0.self_attn.{name}"
        weights[f"{prefix}.lora_A.weight"] = torch.zeros(rank, size)
        weights[f"{prefix}.lora_B.weight"] = torch.zeros(out, rank)
    inside = rng.random() < 0.1
    place = folder if inside else folder / "adapter"
    place.mkdir(exist_ok=True)
    save_file(weights, place / "adapter_model.safetensors", {"format": "pt"})
    says = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "model",
    }  # fmt: skip
    (place / "adapter_config.json").write_text(json.dumps(says, indent=2), encoding="utf-8")


def _split(folder: Path) -> None:
    """Split weights into two files, with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for name, held in parts.items():
        save_file({one: weights[one] for one in held}, folder / name, {"format": "pt"})
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    where = {one: name for name, held in parts.items() for one in held}
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    (folder / "model.safetensors").unlink()


# ---- weights ---------------------------------------------------------------------------------------------------------

Weights = dict[str, torch.Tensor]


def _every(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Random, Weights], Weights]:
    return lambda rng, weights: {name: change(weight).contiguous() for name, weight in weights.items()}


def _one(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Random, Weights], Weights]:
    def apply(rng: Random, weights: Weights) -> Weights:
        name = rng.choice(sorted(weights))
        return weights | {name: change(weights[name]).contiguous()}

    return apply


def _without_one(rng: Random, weights: Weights) -> Weights:
    left_out = rng.choice(sorted(weights))
    return {name: weight for name, weight in weights.items() if name != left_out}


OF_WEIGHTS: tuple[tuple[str, Callable[[Random, Weights], Weights]], ...] = (
    ("one NaN", _one(lambda weight: torch.full_like(weight, torch.nan))),
    ("one infinite", _one(lambda weight: torch.full_like(weight, torch.inf))),
    ("all 0", _every(torch.zeros_like)),
    ("all large", _every(lambda weight: weight * 1e30)),
    ("one of another shape", _one(lambda weight: weight[..., :-1].clone())),
    ("one without elements", _one(lambda weight: weight[:0].clone())),
    ("one of another rank", _one(lambda weight: weight.flatten().clone())),
    ("all of another shape", _every(lambda weight: torch.cat([weight, weight]))),
    ("one of integers", _one(lambda weight: weight.to(torch.int8))),
    ("all of integers", _every(lambda weight: weight.to(torch.int64))),
    ("all of float16", _every(lambda weight: weight.to(torch.float16))),
    ("one of float64", _one(lambda weight: weight.to(torch.float64))),
    ("all of float8", _every(lambda weight: weight.to(torch.float8_e4m3fn))),
    ("all of bool", _every(lambda weight: weight.to(torch.bool))),
    ("all complex", _every(lambda weight: weight.to(torch.complex64))),
    ("none", lambda rng, weights: {}),
    ("one less", _without_one),
    ("one more", lambda rng, weights: weights | {"model.more.weight": torch.zeros(3)}),
    ("names of another library", lambda rng, weights: {f"module.{name}": weight for name, weight in weights.items()}),
    ("names that are none", lambda rng, weights: {f"a{at}": weight for at, weight in enumerate(weights.values())}),
    ("layers of another number", lambda rng, weights: {name.replace("s.0.", "s.7."): one for name, one in weights.items()}),
)  # fmt: skip


def _with_header(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change the header of a safetensors file, and update its length."""

    def apply(content: bytes) -> bytes:
        size = int.from_bytes(content[:8], "little")
        header = change(content[8 : 8 + size])
        return len(header).to_bytes(8, "little") + header + content[8 + size :]

    return apply


OF_HEADERS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("a header of no length", lambda content: bytes(8) + content[8:]),
    ("a header of endless length", lambda content: b"\xff" * 8 + content[8:]),
    ("a header longer than the file", lambda content: (10**7).to_bytes(8, "little") + content[8:]),
    ("a header that is a list", _with_header(lambda header: b"[]")),
    ("a header that is empty", _with_header(lambda header: b"{}")),
    ("a header that is deep", _with_header(lambda header: b"[" * 10_000)),
    ("an unknown type", _with_header(lambda header: header.replace(b'"F32"', b'"F99"'))),
    ("another type", _with_header(lambda header: header.replace(b'"F32"', b'"F64"'))),
    ("other shapes", _with_header(lambda header: header.replace(b"[16", b"[15"))),
    ("shapes below 0", _with_header(lambda header: header.replace(b"[16", b"[-16"))),
    ("shapes without end", _with_header(lambda header: header.replace(b"[16", b"[99999999999"))),
    ("other places", _with_header(lambda header: header.replace(b'"data_offsets":[0,', b'"data_offsets":[4,'))),
    ("another format in its metadata", _with_header(lambda header: header.replace(b'"pt"', b'"np"'))),
    ("no metadata", _with_header(lambda header: header.replace(b'"__metadata__":{"format":"pt"},', b""))),
    ("metadata of another type", _with_header(lambda header: header.replace(b'{"format":"pt"}', b"3"))),
    ("a page of HTML", lambda content: b"<!DOCTYPE html><html></html>"),
    ("a pointer of Git LFS", lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ("half of it", lambda content: content[: len(content) // 2]),
    ("more behind it", lambda content: content + bytes(64)),
)


def _other_weights(rng: Random, path: Path) -> str:
    """Replace a model's weights with others; return a description of them."""
    luck = rng.random()
    content = path.read_bytes()
    if luck < 0.4:
        what, change = rng.choice(OF_WEIGHTS)
        save_file(change(rng, load_file(path)), path, {"format": "pt"})
        return what
    if luck < 0.7:
        what, of_header = rng.choice(OF_HEADERS)
        content = of_header(content)
    else:
        what, content = values.damaged(rng, content)
    return what + put(rng, path, content)


# ---- everything else -------------------------------------------------------------------------------------------------


def _other_text(rng: Random, path: Path, folder: Path) -> str:
    """Change a JSON file or a template; return a description of the change."""
    content = path.read_bytes()
    if path.suffix != ".json":
        if rng.random() < 0.7:
            template = rng.choice(TEMPLATES)
            path.write_bytes(values.as_utf8(template))
            return f"is {template[:80]!r}"
        what, content = values.damaged(rng, content)
        return what + put(rng, path, content)
    luck = rng.random()
    known = SAYS.get(path.name)
    if known is not None and luck < 0.6:
        says = json.loads(content)
        names = rng.sample(sorted(known), rng.choice([1, 1, 1, 2]))
        given = {name: rng.choice(known[name]) for name in names}
        path.write_bytes(values.as_utf8(values.as_json(says | given)))
        return f"says {given!r}"[:200]
    if luck < 0.75:
        changed = values.changed(rng, json.loads(content), rng.choice([1, 1, 2, 4]))
        path.write_bytes(values.as_utf8(values.as_json(changed)))
        return "changed"
    if luck < 0.8:
        content = values.as_utf8(values.as_json(values.odd(rng)))
        what = f"is {content[:50]!r}"
    elif luck < 0.85:
        what, content = values.encoded(rng, content.decode() + "\n")
    elif luck < 0.9:
        other = rng.choice(sorted(folder.rglob("*.json")))
        what, content = f"is {other.name}", other.read_bytes()
    else:
        what, content = values.damaged(rng, content)
    return what + put(rng, path, content)


def _to_pickles(folder: Path) -> None:
    """Write weights as earlier versions of transformers did."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


EXTRAS: tuple[tuple[str, Callable[[Path], Any]], ...] = (
    ("weights as pickles", _to_pickles),
    ("an empty adapter_config.json", lambda folder: (folder / "adapter_config.json").write_bytes(b"")),
    ("an adapter_config.json of nothing", lambda folder: (folder / "adapter_config.json").write_bytes(b"{}")),
    ("a folder for adapter_config.json", lambda folder: (folder / "adapter_config.json").mkdir()),
    ("an odd added_tokens.json", lambda folder: (folder / "added_tokens.json").write_bytes(b'{"a": "b"}')),
    ("an odd special_tokens_map.json", lambda folder: (folder / "special_tokens_map.json").write_bytes(b"[3]")),
    ("an odd preprocessor_config.json", lambda folder: (folder / "preprocessor_config.json").write_bytes(b"3")),
    ("an index of nothing", lambda folder: (folder / "model.safetensors.index.json").write_bytes(b"{}")),
    ("a template as JSON", lambda folder: (folder / "chat_template.json").write_bytes(b'{"chat_template": 3}')),
    ("further templates", lambda folder: (folder / "additional_chat_templates").write_bytes(b"")),
    ("no tokenizer", lambda folder: [path.unlink() for path in folder.glob("tokenizer*")]),
    ("no weights", lambda folder: (folder / "model.safetensors").unlink()),
    ("no configuration", lambda folder: (folder / "config.json").unlink()),
    ("only weights", lambda folder: [path.unlink() for path in folder.iterdir() if path.suffix != ".safetensors"]),
    ("weights of another name", lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors")),
    ("an old vocabulary", lambda folder: (folder / "vocab.json").write_bytes(b"[]")),
    ("a SentencePiece model of nothing", lambda folder: (folder / "tokenizer.model").write_bytes(b"\x00" * 20)),
)  # fmt: skip
"""Files that a model's folder may contain in addition, or lack."""


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a faulty model, and a recipe that starts from it."""
    start = folder / "model"
    shutil.copytree(materials.model, start)
    given = "model"
    form = rng.choices(["whole", "split", "adapter"], [5, 2, 3])[0]
    if form == "split":
        _split(start)
    elif form == "adapter":
        _add_adapter(start, rng)
        given = "model/adapter" if (start / "adapter").is_dir() else "model"
    touches_weights = False
    if form == "whole" and rng.random() < 0.1:
        what, change = rng.choice(EXTRAS)
        change(start)
    else:
        files = sorted(path for path in start.rglob("*") if path.suffix in (".json", ".jinja", ".safetensors"))
        favoured = [3 if "adapter" in path.parts[-2:][0] or path.suffix == ".safetensors" else 2 for path in files]
        path = rng.choices(files, favoured)[0]
        touches_weights = path.suffix == ".safetensors"
        other = _other_weights(rng, path) if touches_weights else _other_text(rng, path, start)
        what = f"{path.relative_to(start)} {other}"
    changes: dict[str, Any] = {"model_name_or_path": given, "max_steps": 1}
    if rng.random() < 0.5:
        changes["dataset_name"] = "rows.jsonl"
        rows = materials.rows[rng.choice(["messages", "conversational", "multi-turn"])]
        (folder / "rows.jsonl").write_bytes(values.as_utf8("".join(values.as_json(row) + "\n" for row in rows)))
    if form != "adapter" and rng.random() < 0.1:
        changes |= {"use_peft": True, "lora_r": 2}
    recipe = write_recipe(folder, settings_of(materials, **changes))
    # Files without weights are read when the run begins, weights when it generates.
    command = rng.choices(["start", "run", "plan"], [1, 9, 1] if touches_weights else [10, 6, 2])[0]
    return Input([command, recipe], f"{form}: {what}")
