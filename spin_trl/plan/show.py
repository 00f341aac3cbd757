"""A plan on a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..counts import counted
from ..report.text import visible
from .advice import Advice
from .devices import Device
from .hours import Work
from .memory import PARTS
from .optimizers import kept_by
from .planning import Plan

GIB = 2**30

PLAYED = ("generate", "opponent's pass", "train", "evaluate", "baseline")
"""Phases in the order of an iteration."""


def show_model(console: Console, plan: Plan) -> None:
    """What is trained, on what."""
    setup, model = plan.setup, plan.model
    name = setup.recipe.model.model_name_or_path or "a Llama that the run builds"
    how = "full fine-tuning" if setup.peft is None else f"LoRA, {model.num_trainable:,} of them trained"
    how += (
        ", in 4 bits" if setup.recipe.model.load_in_4bit else ", in 8 bits" if setup.recipe.model.load_in_8bit else ""
    )
    console.print(
        Text.assemble((setup.recipe.name, "bold"), f": {name}, {model.num_parameters:,} parameters, {how}"),
        highlight=False,
        soft_wrap=True,
    )
    shared = (
        "prompts shared by their responses" if plan.memory.shares_prompts() else "prompts run once for each response"
    )
    checkpointing = "with" if setup.checkpointing else "without"
    weights = str(setup.dtype).removeprefix("torch.")
    precision = "" if setup.precision == "no" else f", computed in {setup.precision}"
    console.print(
        f"{setup.sharding.described}; weights in {weights}{precision}; {checkpointing} activation checkpointing; {shared}",
        highlight=False,
        soft_wrap=True,
    )
    lengths = plan.lengths
    console.print(
        f"{counted(lengths.num_rows, 'prompt')} to train on, {lengths.num_held_out:,} held out; {lengths.prompt:,.0f} "
        f"tokens a prompt, {lengths.real:,.0f} a real response ({lengths.described}); generated ones are taken to be "
        "as long",
        highlight=False,
        soft_wrap=True,
    )


def memory_table(plan: Plan, device: Device | None) -> Table:
    """Peaks of all phases by part, in GiB on one device."""
    there = "" if device is None else f" ({device.name}: {device.memory:.1f} GiB)"
    # Small models are shown in MiB.
    unit, name = (GIB, "GiB") if plan.peak.total >= GIB else (2**20, "MiB")
    table = Table(title=f"Peak memory of a phase on one device, {name}{there}", title_justify="left")
    table.add_column("part")
    for phase in plan.phases:
        table.add_column(phase.name, justify="right", style="bold" if phase is plan.peak else None)
    for part in PARTS:
        counts = [phase.parts.get(part, 0) for phase in plan.phases]
        if any(counts):
            table.add_row(part, *(_of(count / unit) if count else "" for count in counts))
    table.add_section()
    for label, phases in (("in all", plan.phases), ("with the longest responses", plan.longest)):
        table.add_row(label, *(f"{phase.total / unit:.1f}" for phase in phases))
    return table


def hours_table(plan: Plan, work: Sequence[Work]) -> Table:
    """Hours by phase, of every stage and of the run; iterations that are alike stand together."""
    names = [name for name in PLAYED if any(name in one.seconds for one in work)]
    groups = [
        list(group)
        for _, group in itertools.groupby(
            (one for one in work if one.seconds), key=lambda one: (one.steps, one.sampled, one.trained, one.seconds)
        )
    ]
    table = Table(title="Hours", title_justify="left")
    table.add_column("")
    for group in groups:
        first, last = group[0].stage, group[-1].stage.rpartition("-")[2]
        table.add_column(first if len(group) == 1 else f"{first} to {last}, each", justify="right")
    table.add_column("run", justify="right", style="bold")

    def add(label: str, count: Callable[[Work], float], show: Callable[[float], str]) -> None:
        table.add_row(label, *(show(count(group[0])) for group in groups), show(sum(map(count, work))))

    add("steps", lambda one: one.steps, lambda count: f"{count:,.0f}" if count else "")
    add("tokens sampled", lambda one: one.sampled, _many)
    add("tokens trained on", lambda one: one.trained, _many)
    table.add_section()
    for name in names:
        # mypy knows no type for a lambda with a default.
        add(name, lambda one, name=name: one.seconds.get(name, 0), _hours)  # type: ignore[misc]
    table.add_section()
    add("in all", lambda one: one.total, _hours)
    return table


def show_assumptions(console: Console, plan: Plan, device: Device, disk: dict[str, int]) -> None:
    """Disk, and what the figures rest on."""
    kinds = ", ".join(f"{name} {_size_in_words(count)}" for name, count in disk.items())
    console.print(
        Text.assemble(("Disk", "bold"), f": {_size_in_words(sum(disk.values()))}: {kinds}"),
        highlight=False,
        soft_wrap=True,
    )
    assumed = plan.speed(device).assumed
    if assumed:
        console.print(
            f"Hours are assumed, not measured: {assumed}. `--training_tokens_per_second` and "
            "`--generation_tokens_per_second` (of one device) take measured ones.",
            highlight=False,
            soft_wrap=True,
            style="dim",
        )
    optim = plan.setup.optim
    if not kept_by(optim).is_known:
        console.print(f"The optimiser {optim!r} is not known here: its memory is taken to be AdamW's.", style="yellow")


def show_verdict(
    console: Console, plan: Plan, device: Device, advice: Sequence[Advice], more_gpus: Advice | None
) -> None:
    """Whether it fits, and what to change if not."""
    peak, there = plan.peak, device.memory * GIB
    obstacle = plan.obstacle(device)
    if obstacle is not None:
        console.print(
            Text.assemble(("Does not run", "bold red"), f": {visible(obstacle)}"), highlight=False, soft_wrap=True
        )
    sizes = f"{_gib(peak.total)} of {device.memory:.1f} GiB at the peak, in `{peak.name}`"
    if plan.fits_surely(device):
        console.print(
            Text.assemble(("Fits", "bold green"), f" {device.name}: {sizes}."), highlight=False, soft_wrap=True
        )
        return
    if plan.fits(device):
        console.print(
            Text.assemble(
                ("Fits", "bold yellow"),
                f" {device.name} ({sizes}) unless the longest rows meet with responses as long as they may be: then it "
                f"takes {_gib(plan.most)} GiB. A smaller `per_device_train_batch_size` or `max_new_tokens` is safe.",
            ),
            highlight=False,
            soft_wrap=True,
        )
        return
    console.print(
        Text.assemble(("Does not fit", "bold red"), f" {device.name}: {sizes}."), highlight=False, soft_wrap=True
    )
    if advice:
        table = Table(title="What to change, each on top of the one before", title_justify="left")
        for heading in ("in the recipe", "costs", "peak, GiB", ""):
            table.add_column(heading, justify="right" if heading.startswith("peak") else "left")
        for one in advice:
            table.add_row(one.change, one.costs, _gib(one.peak), "fits" if one.fits else "")
        console.print(table)
    if not advice or not advice[-1].fits:
        least = min((one.peak for one in advice), default=peak.total)
        console.print(
            f"No change that is known here makes it fit {device.name}: {_gib(least)} GiB are left of {there / GIB:.1f}.",
            highlight=False,
        )
    if more_gpus is not None:
        console.print(f"Or, as it is: `{more_gpus.change}` ({_gib(more_gpus.peak)} GiB on each).", highlight=False)


def devices_table(plan: Plan, devices: Sequence[Device]) -> Table:
    """All known GPUs: which hold the run, and how long they take."""
    table = Table(title=f"GPUs, {plan.setup.num_processes} of a kind", title_justify="left")
    for heading in ("--gpu", "GiB", "", "peak, GiB", "hours"):
        table.add_column(heading, justify="left" if heading in ("--gpu", "") else "right")
    for device in devices:
        fits = (
            "fits"
            if plan.fits_surely(device)
            else "fits, but for the longest"
            if plan.fits(device)
            else "does not fit"
        )
        runs = plan.obstacle(device) is None
        hours = _hours(sum(one.total for one in plan.work(device))) if runs and plan.fits(device) else ""
        style = None if hours else "dim"
        table.add_row(
            device.name,
            f"{device.memory:.1f}",
            fits if runs else "no bfloat16",
            _gib(plan.peak.total),
            hours,
            style=style,
        )
    return table


def _of(count: float) -> str:
    return f"{count:.1f}" if count >= 0.095 else f"{count:.3f}"


def _gib(count: float) -> str:
    if not count:
        return ""
    return f"{count / GIB:.1f}" if count >= 0.1 * GIB else f"{count / GIB:.3f}"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.1f}" if hours >= 9.95 else f"{hours:.2f}" if hours >= 0.095 else f"{hours:.3f}" if hours else ""


def _many(count: float) -> str:
    """A number of tokens, short enough for eight columns on a narrow terminal."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}" if count else ""


def _size_in_words(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
