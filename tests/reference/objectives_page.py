"""`docs/reference/objectives.md`: the losses that `loss_type` can name, from the objectives' own descriptions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from reference.markdown import WRITTEN, code, escaped, table
from reference.objectives_table import at_start
from spin_trl.objectives.objective import NUM_GENERATIONS, Method, Objective
from spin_trl.objectives.registry import METHODS, OURS, losses_of_trl

HEAD = """\
# Objectives, one by one

The losses that `loss_type` can name. [Objectives](../objectives.md) explains how to choose one, with results on the
quickstart's task.

r and r' are the log-ratios log π(y|x) − log π_t(y|x) of the real response and of the opponent's. At the first step of
an iteration both are 0, and the loss of a pair is the value in the column "at the start".

"""


def page() -> str:
    rows = [row(method) for method in METHODS.values()]
    by_function: dict[Any, list[Method]] = {}
    for method in METHODS.values():
        by_function.setdefault(function_of(method) or method.loss_type, []).append(method)
    sections = "".join(section(methods) for methods in by_function.values())
    heads = ["loss type", "method", "paper", "computed by", "at the start"]
    return f"{WRITTEN}{HEAD}{table(heads, rows)}{sections}{rest()}"


def function_of(method: Method) -> Callable[..., Any] | None:
    """Return where its loss is computed; several losses may share one function."""
    if not isinstance(method, Objective):
        return None
    return getattr(method.function, "func", method.function)


def row(method: Method) -> list[str]:
    computed = "spin_trl" if method.loss_type in OURS else "TRL"
    return [code(method.loss_type), method.name, paper(method), computed, at_start(method)]


def paper(method: Method) -> str:
    return f"[{method.paper}](https://arxiv.org/abs/{method.paper})" if method.paper else ""


def section(methods: list[Method]) -> str:
    first = methods[0]
    names = dict.fromkeys(method.name.partition(" (")[0] if len(methods) > 1 else method.name for method in methods)
    title = ", ".join(name[0].upper() + name[1:] for name in names)
    parts = [f"\n## {title}\n", f"`loss_type`: {code(*(method.loss_type for method in methods))}"]
    parts[1] += f", paper: arXiv {paper(first)}\n" if first.paper else "\n"
    parts += [escaped(method.note) + "\n" for method in methods if method.note]
    function = function_of(first)
    if function is None:
        parts.append(f"$`{first.equation}`$\n")
    else:
        parts.append(described(function) + "\n")
    for method in methods:
        if isinstance(method, Objective):
            parts += needs(method) if len(methods) == 1 else []
            parts.append(settings(method, named=len(methods) > 1))
    return "\n".join(parts)


def described(function: Callable[..., Any]) -> str:
    """Return its docstring up to the arguments: the equation with its number, and what it means."""
    text = inspect.getdoc(function) or ""
    text = text.partition("\nArgs:")[0].strip()
    lines = [line if line.startswith("    ") else escaped(line).replace(r"\*\*", "**") for line in text.splitlines()]
    return "\n".join(lines)


def needs(objective: Objective[Any]) -> list[str]:
    said = []
    if not objective.needs_opponent:
        said.append("It needs no log-probabilities of the opponent, so no reference model is loaded.")
    if objective.needs_proto:
        said.append("It also uses the start's own responses.")
    if objective.couples_pairs:
        said.append("It weights all pairs of an optimiser step together.")
    return [" ".join(said) + "\n"] if said else []


def settings(objective: Objective[Any], *, named: bool) -> str:
    """Return its settings with their defaults."""
    values = vars(objective.published)
    if not values:
        return ""
    shown = []
    for name, value in values.items():
        usual = f"as many as `{value}`" if value == NUM_GENERATIONS else "" if value is None else f"{value}"
        shown.append(f"[`{name}`](settings.md#{name})" + (f" {usual}" if usual else ""))
    return (
        f"{f'`{objective.loss_type}`: s' if named else 'S'}ettings, with their published values: {', '.join(shown)}.\n"
    )


def rest() -> str:
    """Return TRL's losses that are not described above."""
    others = [loss for loss in losses_of_trl() if loss not in METHODS]
    return (
        "\n## TRL's other losses\n\n"
        f"{code(*others)}: see [TRL's documentation of DPO](https://huggingface.co/docs/trl/dpo_trainer#loss-functions)."
        "\n\nCombine several losses with `loss_type: [space, sft]` and `loss_weights: [1.0, 0.1]`.\n"
    )
