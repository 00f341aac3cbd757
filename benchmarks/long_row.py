"""One row with 10 MB of text: how long is its preparation, compared with the tokenizer's own call?

Prepares one row, loaded from a file as a run loads it, whose prompt or whose response has 10 MB of ordinary words; the
call of the tokenizer on that text, in the same process, is the peer. The words are synthetic, as is the tokenizer, unless
`--model` names the folder of a model, and `--text` a file.

    python benchmarks/long_row.py [--model FOLDER] [--text FILE] [--megabytes 10] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data import conversations

MOST_SECONDS = 5
"""Maximum wall time of preparing the row."""
CALL = "the tokenizer's call"


def text_of(size: int, path: Path | None) -> str:
    """Return text of a number of characters, from a file or of synthetic words."""
    if path is not None:
        known = path.read_text(encoding="utf-8")
    else:
        known = " ".join(turn["content"] for row in conversations(2_000) for turn in row["messages"])
    return (known * (size // len(known) + 1))[:size]


def tokenizer_of(model: Path | None, text: str) -> Any:
    """Return the tokenizer of a model, or one that has learned the words of a text."""
    from transformers import AutoTokenizer

    from spin_trl import StartConfig
    from spin_trl.training.scratch import build_tokenizer

    if model is not None:
        return AutoTokenizer.from_pretrained(model)
    return build_tokenizer(iter([text[:500_000]]), StartConfig(start_vocab_size=8192), max_length=2048)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the wall and CPU seconds of some work."""
    wall, processor = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - wall, time.process_time() - processor


def prepare(path: Path, tokenizer: Any) -> None:
    """Load a file and prepare its rows, as a run does before its first phase."""
    from spin_trl.data.load import load_rows
    from spin_trl.data.prepare import prepare_and_count
    from spin_trl.data.template.pair_template import PairTemplate

    prepare_and_count(load_rows(str(path)), PairTemplate(tokenizer), max_length=1024)


def main() -> int:
    """Measure both rows, print the table, and return 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a model with a tokenizer")
    parser.add_argument("--text", type=Path, help="file of the text, which is repeated")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    text = text_of(int(options.megabytes * 1e6), options.text)
    tokenizer = tokenizer_of(options.model, text)
    count = len(tokenizer(text)["input_ids"])
    rows = {
        "prompt": {"prompt": f"{text}?", "completion": "It is."},
        "response": {"prompt": "Tell a story.", "completion": text},
    }
    found: dict[str, list[tuple[float, float]]] = {CALL: [], **{name: [] for name in rows}}
    with tempfile.TemporaryDirectory() as folder:  # imports, and what is found out about a tokenizer only once
        path = Path(folder) / "first.jsonl"
        path.write_text(json.dumps(rows["prompt"] | {"prompt": "Hello?"}), encoding="utf-8")
        prepare(path, tokenizer)
    for repeat in range(options.repeats):
        found[CALL].append(timed(lambda: tokenizer(text)))
        for name, row in rows.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name}-{repeat}.jsonl"
                # Nothing about a row of an earlier repetition is known.
                other = {"prompt": f"What is {repeat}?", "completion": "A number."}
                path.write_text(f"{json.dumps(row)}\n{json.dumps(other)}\n", encoding="utf-8")
                found[name].append(timed(lambda path=path: prepare(path, tokenizer)))  # type: ignore[misc]
    table = Table(title=f"{len(text) / 1e6:g} MB of text, {count:,} tokens")
    for heading in ("", "seconds", "CPU seconds", "times the call"):
        table.add_column(heading, justify="right" if heading else "left")
    wall = {name: statistics.median(one for one, _ in values) for name, values in found.items()}
    for name, values in found.items():
        processor = statistics.median(one for _, one in values)
        table.add_row(name, f"{wall[name]:.1f}", f"{processor:.1f}", f"{wall[name] / wall[CALL]:.2f}")
    Console().print(table)
    slowest = max(wall[name] for name in rows)
    Console().print(f"Slowest row: {slowest:.1f} s (target: under {MOST_SECONDS} s).")
    return 0 if slowest < MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
