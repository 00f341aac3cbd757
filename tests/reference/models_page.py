"""`docs/reference/models.md`: the families that were tried. `tests/compatibility/write_table.py` tries them again."""

from __future__ import annotations

from compatibility.check import COLUMNS
from compatibility.table import MARKER, Rows, rendered
from reference.markdown import WRITTEN, table

HEAD = """\
# Model families

Families of causal language models in transformers. For every family that TRL ships a chat template for, and for
Mistral's, a test builds a tiny model with random weights, of the class that loads the published models, and tries it in
float32 on a CPU. `.venv/bin/python tests/compatibility/write_table.py` writes the table, and the test fails if the table
is no longer true.

"""

COLUMNS_IN_WORDS = {
    "template": "all of TRL's templates for the family put a real response where a generated one begins; otherwise, the "
    "rest of the row was tried on plain text",
    "answers": "a prompt gets the same answer alone, in a batch, and when it is asked again",
    "training": "an iteration starts at its opponent, with a loss of ln 2, and every weight of the language model moves",
    "shared": "prompts are [run once](../unique-tokens.md) for both responses; otherwise, training is slower, with the same "
    "result",
    "saved": "the saved model has the same log-probabilities whether transformers alone loads it or a run measures it",
    "LoRA": "two iterations can be played, each from its opponent; only the adapter is saved, and it can be loaded",
    "4-bit": "an iteration can be played with an adapter on NF4 weights (bitsandbytes)",
}

TAIL = """

Models that also take images were tried only on text: self-play on images is refused. The test covers neither GPUs nor
bfloat16, nor the published weights (those of gpt-oss are in MXFP4), nor whether self-play improves a model.
"""


def page(rows: Rows) -> str:
    """Return the page for the results of trying the families."""
    columns = table(["column", "is `yes` if"], ([name, COLUMNS_IN_WORDS[name]] for name in COLUMNS))
    return f"{WRITTEN}{HEAD}{columns}\n{MARKER}{rendered(rows)}{MARKER}{TAIL}"
