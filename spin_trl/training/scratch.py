"""A start for runs without a checkpoint: a small Llama and its tokenizer, built on the spot.

For demonstrations, tests and studies on a CPU. The tokenizer is trained on the dataset, so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..config.start import StartConfig
from ..data.columns import UNREADABLE

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

UNKNOWN_TOKEN = TURN
"""Token for characters that the `char` tokenizer has not seen. It must not be EOS, which would end the text there, and a
separate token would change the size of every model built here, including the quickstart's."""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


SCAFFOLDING = frozenset("systemuserassistant\n")
"""Characters that [`CHATML`] adds around the texts of a conversation."""


def build_tokenizer(
    texts: Iterator[str], start: StartConfig, max_length: int, *, chats: bool = True
) -> PreTrainedTokenizerBase:
    """Train a tokenizer on texts: byte-level BPE (any text), or one token per character (only the characters seen).

    The `char` tokenizer maps other characters to its unknown token, which is not its EOS.

    Args:
        texts: texts to train on.
        start: kind and size of the tokenizer.
        max_length: maximum number of tokens for the model.
        chats: whether the data are conversations. If not, the `char` tokenizer gets no chat template: it would lack tokens
            for the template's text, and its model would never have seen the end of a turn.
    """
    if start.start_tokenizer == "char":
        characters = sorted(set().union(SCAFFOLDING if chats else (), *map(set, texts)))
        vocabulary = {token: index for index, token in enumerate([END, TURN, TURN_END, *characters])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_TOKEN))
        backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        backend.decoder = decoders.Fuse()
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=start.start_vocab_size,
                special_tokens=[END, TURN, TURN_END],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        unk_token=UNKNOWN_TOKEN if start.start_tokenizer == "char" else None,
        pad_token=END,
        additional_special_tokens=[TURN, TURN_END],
        model_max_length=max_length,
        chat_template=CHATML if chats or start.start_tokenizer != "char" else None,
        clean_up_tokenization_spaces=False,
    )


def start_config(start: StartConfig, vocab_size: int, max_length: int) -> LlamaConfig:
    """Return the configuration of θ_0.

    Args:
        start: sizes of the model.
        vocab_size: number of tokens in its tokenizer.
        max_length: maximum number of tokens for the model.
    """
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=start.start_hidden_size,
        intermediate_size=max(round(8 * start.start_hidden_size / 3 / 32), 1) * 32,  # Llama's 8/3, in multiples of 32
        num_hidden_layers=start.start_num_layers,
        num_attention_heads=start.start_num_heads,
        num_key_value_heads=start.start_num_heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def texts_of(dataset: Dataset) -> Iterator[str]:
    """Yield every text of a dataset in any format."""
    for row in dataset:
        yield from _strings({name: value for name, value in row.items() if name != UNREADABLE})


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
