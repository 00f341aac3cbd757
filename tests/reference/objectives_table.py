"""The table of objectives in `docs/objectives.md`, from the objectives' own declarations."""

from pathlib import Path

import torch

from spin_trl.objectives.objective import NUM_GENERATIONS, OPPONENT, POLICY, Method, Objective
from spin_trl.objectives.registry import METHODS, published

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"

HEAD = """\
| `loss_type` | method | loss of a pair | at the start | settings and their defaults |
|---|---|---|---|---|
"""


def at_start(method: Method) -> str:
    """Return the loss of a pair whose log-ratios are 0, with the published settings; empty if TRL or the responses
    decide.
    """
    if not isinstance(method, Objective) or not method.needs_opponent:
        return ""
    same = torch.tensor([-10.0], dtype=torch.float64)
    values = vars(method.published) | published([method.loss_type])
    return f"{method(dict.fromkeys(POLICY + OPPONENT, same), values).item():.4g}"


def settings(method: Method) -> str:
    known = vars(method.published) if isinstance(method, Objective) else {}
    given = {name: f"as many as `{value}`" if value == NUM_GENERATIONS else value for name, value in known.items()}
    return ", ".join(f"`{name}`" + ("" if value is None else f" {value}") for name, value in given.items())


def row(method: Method) -> str:
    paper = f", [{method.paper}](https://arxiv.org/abs/{method.paper})" if method.paper else ""
    note = f". {method.note}" if method.note else ""
    equation = "$`" + method.equation.replace("|", r"\|") + "`$"
    cells = [f"`{method.loss_type}`", f"{method.name}{paper}{note}", equation, at_start(method), settings(method)]
    return "| " + " | ".join(cells) + " |\n"


def with_table(page: str) -> str:
    """Return the page, with the table as it should be."""
    before, _, rest = page.partition("| `loss_type` |")
    lines = rest.splitlines(keepends=True)
    after = next((number for number, line in enumerate(lines) if number and not line.startswith("|")), len(lines))
    return before + HEAD + "".join(map(row, METHODS.values())) + "".join(lines[after:])
