"""Shows a plan on a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import filesize
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config.iteration import AUTO_BATCH
from ..config.loop import SelfPlayConfig, asks_judge
from ..counts import counted
from ..errors import visible
from ..judging.judge import Judge
from ..run.contents import JUDGE_FILE
from .costs import Work
from .devices import Device
from .judged import Judging, judged
from .memory import PARTS, STATES_KEPT
from .planning import Advice, Plan

GIB = 2**30

SHORT_RUN = 360.0
"""Seconds below which a run's duration is shown in seconds, because hours would be 0.0 and less."""

PLAYED = ("generate", "start's pass", "opponent's pass", "train", "evaluate", "baseline", "test")
"""Phases in the order of an iteration; the last one ends the run."""


def show_model(console: Console, plan: Plan) -> None:
    """Show the model, how it is trained, and the data."""
    setup, model, lengths = plan.setup, plan.memory.policy, plan.lengths
    loaded = setup.recipe.model
    model_name = loaded.model_name_or_path or "a Llama that the run builds"
    how = "full fine-tuning" if setup.peft is None else f"LoRA ({model.num_trainable:,} trainable)"
    how += ", in 4 bits" if loaded.load_in_4bit else ", in 8 bits" if loaded.load_in_8bit else ""
    show_line(console, f": {model_name}, {model.num_parameters:,} parameters, {how}", (visible(plan.source), "bold"))
    is_shared = plan.memory.shares_prompts()
    shared = "prompts shared between responses" if is_shared else "prompts repeated for each response"
    checkpointing = "with" if setup.checkpointing else "without"
    weights = str(setup.dtype).removeprefix("torch.")
    precision = "" if setup.precision == "no" else f", computed in {setup.precision}"
    show_line(
        console,
        f"{setup.sharding.described}; weights in {weights}{precision}; {checkpointing} activation checkpointing; {shared}",
    )
    show_line(
        console,
        f"{counted(lengths.num_rows, 'training prompt')}, {lengths.num_held_out:,} held out; {lengths.prompt:,.0f} tokens "
        f"per prompt, {lengths.real:,.0f} per real response ({lengths.described}); generated responses are assumed to be "
        "as long",
    )
    pairs, origins = lengths.preferences, setup.play.then_dpo
    if origins:
        each = "the pairs are not available locally, and are not planned for"
        if pairs is not None:
            each = f"{counted(pairs.num_pairs, 'preference pair')}, {pairs.pair:,.0f} tokens per pair"
        show_line(console, f"DPO on {', '.join(origins)} after the last iteration: {each}")
    if pairs is not None and pairs.ends is not None:
        show_line(console, pairs.ends, style="yellow")


def show_judged(console: Console, plan: Plan) -> None:
    """Show what judges the models of the run, and what nothing judges."""
    recipe = plan.setup.recipe
    judging = Judging(
        recipe.play,
        plan.lengths.num_held_out,
        is_tested=recipe.data.test_name is not None,
        is_retained=recipe.data.retain_name is not None or bool(recipe.play.retain_tasks),
        scorers=tuple(recipe.play.scorer or ()),
    )
    for line in judged(judging):
        show_line(console, line)


def show_batch_size(console: Console, plan: Plan) -> None:
    """Show the number that `generation_batch_size: auto` would become, if the recipe has it."""
    setup, memory = plan.setup, plan.memory
    if setup.args.generation_batch_size != AUTO_BATCH:
        return
    why = "as on every CPU"
    if setup.on_gpu:
        why = "assumed: name a GPU" if memory.device_bytes is None else f"with {_gib(memory.device_bytes)} GiB"
    show_line(console, f"`generation_batch_size: {AUTO_BATCH}` becomes {memory.batch_size} ({why})")


def show_judge(console: Console, play: SelfPlayConfig) -> None:
    """Show where which data would be sent to be judged, if a scorer is the judge.

    Raises:
        RecipeError: if the judge may not be asked, or its rubric can't be read.
    """
    if asks_judge(play):
        show_line(console, Judge.of(play, lambda: Path(JUDGE_FILE)).described())


def memory_table(plan: Plan, device: Device | None) -> Table:
    """Return a table of the peaks of all phases on one device by part, in GiB."""
    there = "" if device is None else f" ({device.name}: {device.memory:.1f} GiB)"
    # Small models are shown in MiB.
    unit, name = (GIB, "GiB") if plan.peak.total >= GIB else (2**20, "MiB")
    table = _table(f"Peak memory per phase on one device, {name}{there}", "part")
    for phase in plan.phases:
        table.add_column(phase.name, justify="right", style="bold" if phase is plan.peak else None)
    for part in PARTS:
        counts = [phase.parts.get(part, 0) / unit for phase in plan.phases]
        if any(counts):
            table.add_row(part, *(_short(count, ".1f") for count in counts))
    table.add_section()
    for label, phases in (("total", plan.phases), ("with the longest responses", plan.longest)):
        table.add_row(label, *(f"{phase.total / unit:.1f}" for phase in phases))
    return table


def hours_table(plan: Plan, work: Sequence[Work]) -> Table:
    """Return a table of hours per phase, for every stage and the whole run; equal consecutive stages share a column.

    Short runs are shown in seconds.
    """
    is_short = sum(one.total for one in work) < SHORT_RUN
    duration: Callable[[float], str] = (lambda seconds: _short(seconds, ",.0f")) if is_short else _hours
    names = [name for name in PLAYED if any(name in one.seconds for one in work)]
    played = (one for one in work if one.seconds)
    alike = itertools.groupby(played, key=lambda one: (one.steps, one.sampled, one.trained, one.seconds))
    groups = [list(group) for _, group in alike]
    table = _table("Seconds" if is_short else "Hours", "")
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
        add(name, lambda one, name=name: one.seconds.get(name, 0), duration)  # type: ignore[misc]
    table.add_section()
    add("total", lambda one: one.total, duration)
    return table


def show_assumptions(console: Console, plan: Plan, device: Device, disk: dict[str, int]) -> None:
    """Show the disk space, and the assumptions behind the figures."""
    kinds = ", ".join(f"{name} {filesize.decimal(count)}" for name, count in disk.items())
    show_line(console, f": {filesize.decimal(sum(disk.values()))}: {kinds}", ("Disk", "bold"))
    assumed = plan.speed(device).assumed
    if assumed:
        show_line(
            console,
            f"Hours are estimates, not measurements; assumptions: {assumed}. If you have measured rates, pass them with "
            "`--training_tokens_per_second` and `--generation_tokens_per_second` (per device).",
            style="dim",
        )
    optim = plan.setup.optim
    if optim not in STATES_KEPT:
        console.print(f"The memory of optimiser {optim!r} is unknown; AdamW's is assumed.", style="yellow")


def show_verdict(
    console: Console, plan: Plan, device: Device, advice: Sequence[Advice], more_gpus: Advice | None
) -> None:
    """Show whether the run fits, and what to change if it does not."""
    peak = plan.peak
    obstacle = plan.obstacle(device)
    if obstacle is not None:
        show_line(console, f": {obstacle}", ("Does not run", "bold red"))
    sizes = f"{_gib(peak.total)} of {device.memory:.1f} GiB at the peak, in `{peak.name}`"
    if plan.fits_surely(device):
        show_line(console, f" {device.name}: {sizes}.", ("Fits", "bold green"))
        return
    if plan.fits(device):
        lower = " or ".join(f"`{name}`" for name in plan.smaller_rows(plan.worst))
        show_line(
            console,
            f" {device.name} ({sizes}) except in the worst case, the longest rows with responses of maximum length, which "
            f"takes {_gib(plan.worst.total)} GiB in `{plan.worst.name}`. To be safe, lower {lower}.",
            ("Fits", "bold yellow"),
        )
        return
    show_line(console, f" {device.name}: {sizes}.", ("Does not fit", "bold red"))
    if advice:
        table = _table("What to change, each on top of those before", "in the recipe", "cost", ">peak, GiB", "")
        for one in advice:
            table.add_row(one.change, one.costs, _gib(one.peak), "fits" if one.fits else "")
        console.print(table)
    if not advice or not advice[-1].fits:
        least = _gib(min((one.peak for one in advice), default=peak.total))
        reached = f"the lowest peak is {least} GiB, of {device.memory:.1f} GiB available"
        console.print(f"No change known here makes the run fit {device.name}: {reached}.", highlight=False)
    if more_gpus is not None:
        alternative = f"`{more_gpus.change}` ({_gib(more_gpus.peak)} GiB on each)"
        console.print(f"Or, without any of these changes: {alternative}.", highlight=False)


def devices_table(plan: Plan, devices: Sequence[Device]) -> Table:
    """Return a table of all known GPUs: which of them fit the run, and how many hours it takes."""
    table = _table(f"With {counted(plan.setup.num_processes, 'GPU')}", "--gpu", ">GiB", "", ">peak, GiB", ">hours")
    for device in devices:
        fits = "fits" if plan.fits_surely(device) else "fits, except worst case"
        if not plan.fits(device):
            fits = "does not fit"
        hours = ""
        if plan.obstacle(device) is not None:
            fits = "no bfloat16"
        elif plan.fits(device):
            hours = _hours(sum(one.total for one in plan.work(device)))
        style = None if hours else "dim"
        table.add_row(device.name, f"{device.memory:.1f}", fits, _gib(plan.peak.total), hours, style=style)
    return table


def show_line(console: Console, text: str, begin: tuple[str, str] = ("", ""), style: str | None = None) -> None:
    """Print a line that a terminal may wrap, starting with a separately styled part."""
    console.print(Text.assemble(begin, visible(text)), highlight=False, soft_wrap=True, style=style)


def _table(title: str, *headings: str) -> Table:
    """Return a table with a heading for each column; a leading `>` right-aligns the column."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
    return table


def _short(count: float, form: str) -> str:
    """Format a number, with three decimals if it is small, and as an empty string if it is 0."""
    return "" if not count else format(count, form if count >= 0.095 else ".3f")


def _gib(count: float) -> str:
    return _short(count / GIB, ".1f")


def _hours(seconds: float) -> str:
    return _short(seconds / 3600, ",.1f" if seconds / 3600 >= 9.95 else ".2f")


def _many(count: float) -> str:
    """Format a number of tokens, short enough for eight columns on a narrow terminal."""
    unit, suffix = filesize.pick_unit_and_suffix(int(count), ["", " k", " M", " G"], 1000)
    return f"{count / unit:.{1 if suffix else 0}f}{suffix}" if count else ""
