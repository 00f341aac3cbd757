"""`docs/reference/models.md`: the families that were tried. `tests/compatibility/write_table.py` tries them again."""

from __future__ import annotations

from compatibility.check import COLUMNS
from compatibility.table import MARKER, Rows, rendered
from reference.markdown import WRITTEN, table

HEAD = """\
# Model families

Causal language models of transformers. For every family for which TRL ships a chat template, and for Mistral's, a
tiny model with random weights is built and tried, of the class in which the published ones load, in float32 on a CPU.
The table is made by that test (`.venv/bin/python tests/compatibility/write_table.py`), which fails where it is no
longer true.

"""

COLUMNS_IN_WORDS = {
    "template": "in all of TRL's templates of the family a real response stands where a generated one does; where not, the "
    "rest of the row is played on plain text",
    "answers": "a prompt gets the same answer alone and among others, and a second time",
    "training": "an iteration starts at its opponent, with a loss of ln 2, and every weight of the language model moves",
    "shared": "prompts are [run once](../unique-tokens.md) for both responses; where not, training is slower, and as right",
    "saved": "what was trained has the same log-probabilities when transformers alone loads it, and when a run measures it",
    "LoRA": "two iterations are played, each from its opponent; what is saved is the adapter alone, and loads",
    "4-bit": "an iteration of an adapter on NF4 weights (bitsandbytes) is played",
}

TAIL = """

Models that also see images are tried on text alone: self-play on images is refused. Not tried: these models on a GPU
or in bfloat16, the published weights themselves (gpt-oss's come in MXFP4), and what self-play gains.
"""


def page(rows: Rows) -> str:
    """Return the page for the results of trying the families."""
    columns = table(["column", "is `yes` if"], ([name, COLUMNS_IN_WORDS[name]] for name in COLUMNS))
    return f"{WRITTEN}{HEAD}{columns}\n{MARKER}{rendered(rows)}{MARKER}{TAIL}"
