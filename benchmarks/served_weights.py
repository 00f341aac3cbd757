"""How far the log-probs of the same weights differ between two implementations, and those of quantised weights.

`MOST_DIFFERENCE` (spin_trl/generation/completions/weights.py) must be above the first and, where it can be, below the
second. The tokens are those of problems of SVAMP that ship with this package. The first implementation is float32 with SDPA
and batches of 4 rows; the others differ in number format, kernel and batch. Quantised weights are rounded as the formats do,
and computed in float32, so that nothing else differs: FP8 (e4m3, one scale a matrix), INT8 (one scale a row) and INT4
(groups of 64).

    python benchmarks/served_weights.py [--model smollm2-135m]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from spin_trl.config.fetched import folder_of
from spin_trl.data.published.svamp import load_svamp_sample
from spin_trl.generation.completions.weights import MOST_DIFFERENCE, Logprobs, logprob_difference
from spin_trl.models.logps import token_logps

MOST_TOKENS = 2_000
PROMPT_TOKENS = 8
_LARGEST_FP8 = 448.0


def pairs_of(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Return beginnings of conversations, and what follows."""
    pairs: list[tuple[list[int], list[int]]] = []
    for row in load_svamp_sample("train"):
        ids = tokenizer(tokenizer.apply_chat_template(row["messages"], tokenize=False))["input_ids"]
        pairs.append((ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:]))
        if sum(len(rest) for _, rest in pairs) >= MOST_TOKENS:
            break
    return pairs


def rounded(weight: torch.Tensor, bits: int, group: int | None) -> torch.Tensor:
    """Return a matrix in integers of some bits, with a scale for each row or group."""
    groups = weight.reshape(-1, group or weight.shape[1])
    scale = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((groups / scale).round() * scale).reshape(weight.shape)


def in_fp8(weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix in FP8 (e4m3)."""
    scale = weight.abs().amax() / _LARGEST_FP8
    return (weight / scale).to(torch.float8_e4m3fn).to(weight.dtype) * scale


def quantised(model: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change all matrices of a model but its embeddings and its head, as servers do."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            module.weight.data = change(module.weight.data)


ARMS: dict[str, tuple[dict[str, Any], int, Callable[[torch.Tensor], torch.Tensor] | None]] = {
    "float32, eager, 16 rows": ({"dtype": torch.float32, "attn_implementation": "eager"}, 16, None),
    "bfloat16, 4 rows": ({"dtype": torch.bfloat16}, 4, None),
    "bfloat16, eager, 16 rows": ({"dtype": torch.bfloat16, "attn_implementation": "eager"}, 16, None),
    "INT8 weights": ({"dtype": torch.float32}, 16, lambda weight: rounded(weight, 8, None)),
    "FP8 weights": ({"dtype": torch.float32}, 16, in_fp8),
    "INT4 weights": ({"dtype": torch.float32}, 16, lambda weight: rounded(weight, 4, 64)),
}
"""Options of loading, rows of a batch, and the change of weights, by name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the model (default: the fetched smollm2-135m)")
    given = parser.parse_args().model
    folder = Path(given) if given else folder_of("smollm2-135m")
    if not folder.is_dir():
        print(f"{folder} is missing. `spin-trl fetch smollm2-135m` fetches a model.")
        sys.exit(1 if given else 0)
    pairs = pairs_of(AutoTokenizer.from_pretrained(folder))

    def scored(options: dict[str, Any], rows: int, change: Callable[[torch.Tensor], torch.Tensor] | None) -> Logprobs:
        model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
        if change is not None:
            quantised(model, change)
        return token_logps(model, pairs, pad_token_id=0, batch_size=rows)

    first = scored({"dtype": torch.float32}, 4, None)
    found = {name: scored(*arm) for name, arm in ARMS.items()}
    table = Table("compared with float32, SDPA, 4 rows", "nats a token", f"at most {MOST_DIFFERENCE}")
    for name, logprobs in found.items():
        distance = logprob_difference(first, logprobs)
        table.add_row(name, f"{distance:.4f}", "yes" if distance <= MOST_DIFFERENCE else "no")
    both = logprob_difference(found["bfloat16, 4 rows"], found["bfloat16, eager, 16 rows"])
    table.add_row("the two in bfloat16", f"{both:.4f}", "yes" if both <= MOST_DIFFERENCE else "no")
    Console().print(
        f"{folder.name}: {sum(len(response) for _, response in pairs)} tokens of {len(pairs)} conversations"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
