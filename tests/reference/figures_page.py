"""`docs/reference/figures.md`: what is measured on held-out prompts."""

from __future__ import annotations

from reference.markdown import WRITTEN, escaped, table
from spin_trl.evaluation.figures import FIGURES, MEANINGS, Figure

HEAD = """\
# Figures

The figures that a run measures on held-out prompts after each iteration. A figure has the same name in `metrics.json`,
the journal, trackers and `metric_for_best_iteration`; the report and the terminal use the name in words.

r and r' are log-ratios: the log-probability of a response under the model, minus that under its opponent, for the real
response and for the opponent's. Log-probabilities are sums over a response's tokens, in nats.

Some figures only describe the answers: neither more nor less of them is better. If one of them is the metric of the best
iteration, more counts as better, unless `greater_is_better_iteration` says otherwise.

"""

TAIL = """
Suffixes of a figure's name give its uncertainty and its change:

| suffix | meaning |
|---|---|
| `_se` | its standard error |
| `_low`, `_high` | its 95 % interval |
| `_change` | its change from the opponent, prompt by prompt |
| `_change_low`, `_change_high` | the 95 % interval of that change |
| `_change_p` | the p-value of that change |

`held_out` is the number of prompts. `coefficient/real_start`, `coefficient/generated_start`, `coefficient/real_end` and
`coefficient/generated_end` are the mean derivatives of a pair's loss with respect to r and r', before and after the
iteration; `pairs_in_play/real` and `pairs_in_play/generated` are the effective shares of pairs that make up the
gradient at its end.
"""


def page() -> str:
    rows = [row(figure) for figure in FIGURES.values()]
    return f"{WRITTEN}{HEAD}{table(['name', 'in words', 'unit', 'counts as better', 'meaning'], rows)}{TAIL}"


def row(figure: Figure) -> list[str]:
    unit = "share (%)" if figure.percent else figure.unit
    better = "neither" if figure.is_neutral else "more" if figure.greater_is_better else "less"
    return [f"`{figure.name}`", figure.words, unit, better, escaped(MEANINGS[figure.name], in_table=True)]
