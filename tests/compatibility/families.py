"""The families of the README's table, each as a tiny model: those for which TRL ships a chat template, and Mistral's."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import transformers
import trl
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

import tiny
from trl_templates import Family as Tokens
from trl_templates import family_of, tokenizer_with

FOLDER: Final = Path(trl.__file__).parent / "chat_templates"

# Zephyr's own template, from its tokenizer: TRL ships none for Mistral's models.
ZEPHYR: Final = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}"
    "\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)


@dataclass(frozen=True)
class ModelFamily:
    """A row of the table.

    Attributes:
        name: name that users know.
        example: a model of the family on the Hub.
        templates: TRL's templates, without their `_training` variants, the newest first. Empty for `ZEPHYR`.
        architecture: transformers' `model_type`.
        config: settings that make the architecture tiny, beyond `tiny.sizes()`.
        vision: configuration of the part that sees images; None for a text-only model.
    """

    name: str
    example: str
    templates: tuple[str, ...]
    architecture: str
    config: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] | None = None

    @property
    def tokens(self) -> Tokens:
        """Return the special tokens that its models publish."""
        return family_of(FOLDER / self.templates[0]) if self.templates else Tokens("<s>", "</s>", (), "</s>")

    def tokenizer(self, template: str | None = None) -> PreTrainedTokenizerFast:
        """Return the tiny tokenizer with a template of the family (default: the first) and its special tokens."""
        template = template or next(iter(self.templates), None)
        source = ZEPHYR if template is None else (FOLDER / f"{template}.jinja").read_text(encoding="utf-8")
        return tokenizer_with(source, self.tokens)

    def model(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        """Return a model of two layers and hidden size 16 (three layers if there are three kinds), with random weights."""
        ids = {
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        # Whether input and output embeddings are tied is the architecture's own default.
        sizes = {name: value for name, value in tiny.sizes().items() if name != "tie_word_embeddings"}
        # Some templates begin with a page of instructions, and a letter is a token here.
        text = {**sizes, "max_position_embeddings": 2048, **ids, **self.config}
        if self.vision is None:
            config = AutoConfig.for_model(self.architecture, **text)
            kind = transformers.AutoModelForCausalLM
        else:
            image = len(tokenizer)  # beyond the vocabulary: no text has one, and none is sampled
            config = AutoConfig.for_model(
                self.architecture, text_config=text, image_token_id=image, video_token_id=image, **self.vision
            )
            kind = transformers.AutoModelForImageTextToText
        result = tiny.seeded(kind.from_config, config, seed=0, dtype=torch.float32)
        ends = tokenizer.convert_tokens_to_ids([self.tokens.eos, *self.tokens.more])
        result.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
        return result


SLIDING: Final[dict[str, Any]] = {"sliding_window": 2048, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA: Final[dict[str, Any]] = {"query_pre_attn_scalar": 8, **SLIDING}
CONVOLUTION: Final[dict[str, Any]] = {
    "layer_types": ["conv", "full_attention"],
    "block_multiple_of": 8,
    "conv_L_cache": 3,
}
LINEAR: Final[dict[str, Any]] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
EXPERTS: Final[dict[str, Any]] = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
ROTATIONS: Final[dict[str, Any]] = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
"""Rotary positions in three dimensions: time, height and width."""
VIT: Final[dict[str, Any]] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_VIT: Final[dict[str, Any]] = {
    "depth": 1,
    "num_heads": 2,
    "hidden_size": 16,
    "out_hidden_size": 16,
    "intermediate_size": 32,
    "patch_size": 4,
}
QWEN3_VIT: Final[dict[str, Any]] = {**QWEN_VIT, "num_position_embeddings": 16}

FAMILIES: Final = (
    ModelFamily("Aya Expanse", "CohereLabs/aya-expanse-8b", ("cohere",), "cohere"),
    ModelFamily("Tiny Aya", "CohereLabs/tiny-aya-earth", ("cohere2",), "cohere2", SLIDING),
    ModelFamily(
        "DeepSeek-R1 distilled",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        ("deepseek_r1_distill",),
        "qwen2",
    ),
    ModelFamily(
        "DeepSeek-V3, -R1",
        "deepseek-ai/DeepSeek-R1",
        ("deepseekv3",),
        "deepseek_v3",
        {
            **EXPERTS,
            "head_dim": 4,
            "num_key_value_heads": 2,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        },
    ),
    ModelFamily("Gemma", "google/gemma-7b-it", ("gemma",), "gemma"),
    ModelFamily("Gemma 2", "google/gemma-2-2b-it", ("gemma",), "gemma2", GEMMA),
    ModelFamily("Gemma 3, text", "google/gemma-3-1b-it", ("gemma3",), "gemma3_text", GEMMA),
    ModelFamily(
        "Gemma 3",
        "google/gemma-3-4b-it",
        ("gemma3",),
        "gemma3",
        GEMMA,
        {
            "vision_config": {**VIT, "patch_size": 4, "model_type": "siglip_vision_model", "vision_use_head": False},
            "mm_tokens_per_image": 4,
        },
    ),
    ModelFamily(
        "Gemma 4",
        "google/gemma-4-E2B-it",
        ("gemma4_v5", "gemma4_v4", "gemma4_v3", "gemma4_v2", "gemma4"),
        "gemma4",
        {**SLIDING, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 600, "global_head_dim": 8},
        {
            "vision_config": {**VIT, "num_key_value_heads": 1, "head_dim": 8, "position_embedding_size": 16},
            "audio_config": None,
        },
    ),
    ModelFamily("GLM-4.5", "zai-org/GLM-4.5", ("glm4moe",), "glm4_moe", {**EXPERTS, "n_routed_experts": 4}),
    ModelFamily(
        "gpt-oss",
        "openai/gpt-oss-20b",
        ("gptoss",),
        "gpt_oss",
        {**SLIDING, "num_experts_per_tok": 2, "num_local_experts": 4},
    ),
    ModelFamily(
        "Idefics3",
        "HuggingFaceM4/Idefics3-8B-Llama3",
        ("idefics3",),
        "idefics3",
        {"model_type": "llama"},
        {"vision_config": VIT},
    ),
    ModelFamily("LFM2", "LiquidAI/LFM2-1.2B", ("lfm2_v2", "lfm2"), "lfm2", CONVOLUTION),
    ModelFamily("LFM2.5", "LiquidAI/LFM2.5-230M", ("lfm2_2_5_v2", "lfm2_2_5"), "lfm2", CONVOLUTION),
    ModelFamily(
        "LFM2.5-VL",
        "LiquidAI/LFM2.5-VL-3B",
        ("lfm2_2_5_vl",),
        "lfm2_vl",
        {**CONVOLUTION, "model_type": "lfm2"},
        {
            "vision_config": {**VIT, "model_type": "siglip2_vision_model", "num_patches": 4},
            "projector_hidden_size": 16,
        },
    ),
    ModelFamily("Llama 3", "meta-llama/Llama-3.2-1B-Instruct", ("llama3_2", "llama3_1", "llama3"), "llama"),
    ModelFamily(
        "LLaVA-NeXT",
        "llava-hf/llava-v1.6-mistral-7b-hf",
        ("llava_next",),
        "llava_next",
        {"model_type": "mistral", "sliding_window": None},
        {
            "vision_config": {**VIT, "model_type": "clip_vision_model", "projection_dim": 16},
            "image_grid_pinpoints": [[16, 16]],
            "image_seq_length": 4,
        },
    ),
    ModelFamily("Mistral, Zephyr", "HuggingFaceH4/zephyr-7b-beta", (), "mistral", {"sliding_window": 2048}),
    ModelFamily(
        "Muse Glimmer",
        "meta-models/Muse-Glimmer-30B",
        ("muse_glimmer",),
        "muse_glimmer",
        SLIDING,
        {
            "vision_config": {**VIT, "pos_emb_height": 4, "pos_emb_width": 4, "max_position_embeddings": 16},
            "out_hidden_size": 64,
            "projector_hidden_size": 16,
        },
    ),
    ModelFamily(
        "Nemotron 3",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        ("nemotron_3_5_lightning", "nemotron_3_ultra", "nemotron_3_super", "nemotron_3_nano"),
        "nemotron_h",
        {
            **EXPERTS,
            "layers_block_type": ["linear_attention", "full_attention", "moe"],
            "ssm_state_size": 4,
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
            "n_routed_experts": 4,
            "moe_shared_expert_intermediate_size": 16,
        },
    ),
    ModelFamily("Phi-3, Phi-3.5", "microsoft/Phi-3.5-mini-instruct", ("phi3_5", "phi3"), "phi3"),
    ModelFamily("Qwen2.5", "Qwen/Qwen2.5-0.5B-Instruct", ("qwen2_5",), "qwen2", {"tie_word_embeddings": True}),
    ModelFamily(
        "Qwen2-VL, Qwen2.5-VL",
        "Qwen/Qwen2.5-VL-3B-Instruct",
        ("qwen2_5_vl",),
        "qwen2_5_vl",
        {"rope_parameters": {**ROTATIONS, "mrope_section": [1, 1, 2]}},
        {"vision_config": {**QWEN_VIT, "window_size": 16, "fullatt_block_indexes": [0]}},
    ),
    ModelFamily("Qwen3", "Qwen/Qwen3-4B-Instruct-2507", ("qwen3_instruct_2507", "qwen3"), "qwen3"),
    ModelFamily("Qwen3 MoE", "Qwen/Qwen3-30B-A3B", ("qwen3",), "qwen3_moe", {**EXPERTS, "num_experts": 4}),
    ModelFamily(
        "Qwen3-VL",
        "Qwen/Qwen3-VL-2B-Instruct",
        ("qwen3_vl",),
        "qwen3_vl",
        {"rope_parameters": {**ROTATIONS, "mrope_section": [2, 1, 1]}},
        {"vision_config": {**QWEN3_VIT, "deepstack_visual_indexes": [0]}},
    ),
    ModelFamily(
        "Qwen3.5, 3.6, 3.8",
        "Qwen/Qwen3.5-4B",
        ("qwen3_8", "qwen3_6", "qwen3_5_think", "qwen3_5_nothink"),
        "qwen3_5",
        {**LINEAR, "rope_parameters": {**ROTATIONS, "mrope_section": [2, 1, 1]}},
        {"vision_config": QWEN3_VIT},
    ),
    ModelFamily(
        "Qwen3.5, 3.6 MoE",
        "Qwen/Qwen3.6-35B-A3B",
        ("qwen3_6", "qwen3_5_think"),
        "qwen3_5_moe",
        {
            **LINEAR,
            **EXPERTS,
            "num_experts": 4,
            "shared_expert_intermediate_size": 16,
            "rope_parameters": {**ROTATIONS, "mrope_section": [2, 1, 1]},
        },
        {"vision_config": QWEN3_VIT},
    ),
    ModelFamily(
        "SmolVLM",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        ("smolvlm",),
        "smolvlm",
        {"model_type": "llama"},
        {"vision_config": VIT},
    ),
)

LEFT_OUT: Final = {
    "diffusion_gemma": "DiffusionGemma writes blocks of text by diffusion: it is no causal language model",
}
"""TRL's templates of models that can't be self-played at all, and the reason."""
