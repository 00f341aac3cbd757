"""A tiny vision-language model of each kind that the trainers treat differently, with a processor created on the spot."""

import random
from typing import Any, Final

import torch
import transformers
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma3Processor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
)

import tiny

# llava has pixel values and nothing else, gemma3 also has token types, and qwen2_5_vl has image grids and multimodal
# token types, and the patches of all images in one list without a batch dimension.
KINDS: Final = ("llava", "gemma3", "qwen2_5_vl")

_TEMPLATE: Final = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string %}{{ message['content'] }}{%- else %}"
    "{%- for part in message['content'] %}{{ 'IMAGE' if part['type'] == 'image' else part['text'] }}{%- endfor %}"
    "{%- endif %}{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
_VISION: Final[dict[str, Any]] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


class _ImagesOnlyQwenProcessor(Qwen2_5_VLProcessor):
    """Qwen's processor without its video half, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def _tokenizer(*tokens: str, **named: str) -> PreTrainedTokenizerFast:
    """Return the tiny tokenizer with a model's own special tokens; `named` ones become attributes, like Gemma's."""
    result = tiny.tokenizer(chat_template=False)
    result.add_tokens([*tokens, *named.values()], special_tokens=True)
    for name, token in named.items():
        setattr(result, name, token)
        setattr(result, f"{name}_id", result.convert_tokens_to_ids(token))
    return result


def processor(kind: str) -> ProcessorMixin:
    """Return the processor of one of `KINDS`. An image of 16 x 16 pixels becomes four tokens."""
    if kind == "llava":
        return LlavaProcessor(
            image_processor=transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16),
            tokenizer=_tokenizer("<image>"),
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
        )
    if kind == "gemma3":
        tokens = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
        return Gemma3Processor(
            image_processor=transformers.Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
            tokenizer=_tokenizer(**tokens),
            image_seq_length=4,
            chat_template=_TEMPLATE.replace("IMAGE", "<start_of_image>"),
        )
    if kind == "qwen2_5_vl":
        return _ImagesOnlyQwenProcessor(
            image_processor=transformers.Qwen2VLImageProcessorPil(
                patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 256}
            ),
            tokenizer=_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
            chat_template=_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
        )
    raise ValueError(f"unknown kind of vision-language model: {kind!r}")


def model(kind: str, *, seed: int = 0) -> PreTrainedModel:
    """Return a vision-language model of one of `KINDS`: two layers of hidden size 16 for text and as many for images."""
    text = processor(kind).tokenizer
    text_config: dict[str, Any] = {
        **tiny.sizes(),
        "vocab_size": len(text),
        "pad_token_id": text.pad_token_id,
        "eos_token_id": text.eos_token_id,
        "bos_token_id": None,
    }
    config: dict[str, Any]
    match kind:
        case "llava":
            config = {
                "vision_config": {**_VISION, "model_type": "clip_vision_model"},
                "text_config": {**text_config, "model_type": "llama"},
                "image_token_index": text.convert_tokens_to_ids("<image>"),
                "image_seq_length": 4,
            }
        case "gemma3":
            config = {
                "vision_config": {
                    **_VISION,
                    "patch_size": 4,
                    "model_type": "siglip_vision_model",
                    "vision_use_head": False,
                },
                "text_config": {**text_config, "query_pre_attn_scalar": 8, "sliding_window": 64},
                "image_token_index": text.convert_tokens_to_ids("<image_soft_token>"),
                "boi_token_index": text.convert_tokens_to_ids("<start_of_image>"),
                "eoi_token_index": text.convert_tokens_to_ids("<end_of_image>"),
                "mm_tokens_per_image": 4,
            }
        case _:
            vision = {"depth": 2, "num_heads": 2, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 32}
            rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
            config = {
                "vision_config": {**vision, "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]},
                "text_config": {**text_config, "rope_parameters": rope},
                "image_token_id": text.convert_tokens_to_ids("<|image_pad|>"),
                "video_token_id": text.convert_tokens_to_ids("<|video_pad|>"),
                "vision_start_token_id": text.convert_tokens_to_ids("<|vision_start|>"),
                "vision_end_token_id": text.convert_tokens_to_ids("<|vision_end|>"),
            }
    return tiny.seeded(
        AutoModelForImageTextToText.from_config, AutoConfig.for_model(kind, **config), seed=seed, dtype=torch.float32
    )


def preference(n: int = 4, images_per_row: int = 1) -> Dataset:
    """Return `n` conversational preference pairs, each about images of 16 x 16 random pixels."""
    generator = random.Random(0)
    rows = tiny.preference(n, conversational=True).to_list()
    for row in rows:
        row["images"] = [
            Image.frombytes("RGB", (16, 16), generator.randbytes(16 * 16 * 3)) for _ in range(images_per_row)
        ]
    return Dataset.from_list(rows)
