"""The tables of the report: the figures of every stage with 95 % intervals, and their costs. These are only the cells; the
page lays them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..counts import counted
from ..evaluation.figures import ANSWERS, FIGURES, GAME, RETAINED, SCORES, figure_of, is_figure, is_score
from ..evaluation.intervals import Difference, of_independent
from ..evaluation.isolation.probe import in_words
from ..evaluation.selection import Measured
from ..run.compute import compute_of
from ..run.journal import ISOLATION, MADE, PAIRS, Entry, Step, is_of
from ..run.stage import DPO, SELF_PLAY, arm_in_words
from .formats import MISSING, NumberFormat, duration
from .judge_facts import faults_of_judge, who_judged
from .record import RunRecord, StageRecord, interval_of
from .verdict import the_stage, the_stage_of

LONGEST_FACT = 200
"""Maximum number of characters shown of a fact about the run, such as a scorer's pattern."""

COSTED_STEPS = (Step.GENERATE, Step.TRAIN, Step.EVALUATE)
"""Steps that every table of costs has a column for. The others of [`MADE`] have one if the run took them."""


@dataclass(frozen=True)
class Cell:
    """A table cell: its main text, and details in smaller lines below it."""

    text: str = MISSING
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: row heading.
        cells: one cell per column.
        is_best: whether to mark the row as the best.
        opens_group: whether the row is the first of a baseline arm, or of DPO's stages.
    """

    label: str
    cells: Sequence[Cell]
    is_best: bool = False
    opens_group: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its rows, and the column headings; the first heading belongs to the row labels."""

    headings: Sequence[str]
    rows: Sequence[Row]


def standings(record: RunRecord) -> Table:
    """Return a table with one row per stage: the run's metric, its paired differences, and the gate's decision."""
    decided = any(record.decision(stage) for stage in record.iterations)
    metric = figure_of(record.metric).words
    headings = ["model", metric, "difference", "from the start", *(["decision"] if decided else [])]
    rows = []
    for stage, opens in _in_groups(record):
        other = _compared_with(record, stage)
        cells = [
            _measured_cell(stage, record.metric, record.form(record.metric)),
            Cell() if other is None else _difference_cell(record, stage, other, f"from {the_stage(other)}"),
            Cell() if stage is record.start else _difference_cell(record, stage, record.start),
        ]
        if decided:
            cells.append(_decision(record, stage))
        rows.append(Row(_label(stage), cells, stage is record.best_stage, opens))
    return Table(headings, rows)


def figures(record: RunRecord) -> dict[str, Table]:
    """Return tables by heading, with one row per stage and one column per figure. Figures that no stage has are left out."""
    known = dict.fromkeys(name for stage in record.stages for name in stage.figures)
    scores = {name: figure_of(name).words for name in known if is_score(name) and is_figure(name, known)}
    found = {}
    for table in (SCORES, GAME, ANSWERS):
        of_table = {name: one.heading for name, one in FIGURES.items() if one.table == table and name in known}
        shown = (scores if table == SCORES else {}) | of_table
        forms = {name: record.form(name) for name in shown}
        rows = [
            Row(_label(stage), [_measured_cell(stage, *of) for of in forms.items()], stage is record.best_stage, opens)
            for stage, opens in _in_groups(record)
            if any(stage.value(name) is not None for name in shown)
        ]
        if shown:
            found[table] = Table(["model", *shown.values()], rows)
    return found


def final_test(record: RunRecord) -> Table | None:
    """Return a table of the final models' figures on the test set, with the difference from the start; None if there are
    none."""
    tested, metric = record.tested, record.test_metric
    if not tested:
        return None
    known = dict.fromkeys(name for stage in tested for name in stage.test.figures)
    names = [name for name in known if is_score(name) and is_figure(name, known)]
    names += [name for name, one in FIGURES.items() if one.table in (SCORES, ANSWERS) and name in known]
    headings = {name: figure_of(name).heading or figure_of(name).words for name in names}
    start, form = record.start, record.form(metric)
    rows = []
    for stage, opens in _in_groups(record):
        if stage not in tested:
            continue
        cells = [_measured_cell(stage.test, name, record.form(name)) for name in names]
        found = None if start is None or stage is start else record.difference(stage.test, start.test, metric)
        cells.insert(names.index(metric) + 1 if metric in names else 0, _interval_cell(found, form))
        rows.append(Row(_label(stage), cells, stage is record.best_stage, opens))
    columns = list(headings.values())
    columns.insert(names.index(metric) + 1 if metric in names else 0, "from the start")
    return Table(["model", *columns], rows)


def retention(record: RunRecord) -> Table | None:
    """Return a table of the figures on the retention set with differences from base and start; None if there are none."""
    kept = record.retained
    known = dict.fromkeys(name for stage in kept for name in stage.retention.figures)
    names = [name for name in known if is_figure(name, known) and name != "prompts"]
    if not names:
        return None
    references = {
        f"from {the_stage(one)}": one for one in (record.base, record.start) if one is not None and one in kept
    }
    rows = []
    for stage, opens in _in_groups(record):
        if stage not in kept:
            continue
        cells = []
        for name in names:
            form = record.form(f"{RETAINED}{name}")
            cells.append(_measured_cell(stage.retention, name, form))
            cells += [
                Cell() if stage is other else _retention_cell(record, stage, other, name, form)
                for other in references.values()
            ]
        rows.append(Row(_label(stage), cells, stage is record.best_stage, opens))
    headings = [text for name in names for text in (figure_of(name).heading or figure_of(name).words, *references)]
    return Table(["model", *headings], rows)


def _retention_cell(
    record: RunRecord, stage: StageRecord, other: StageRecord, figure: str, form: NumberFormat
) -> Cell:
    """Return the difference of a figure on the retention set, with its interval if one is known."""
    found = record.difference(stage.retention, other.retention, figure)
    ours, theirs = stage.retention.value(figure), other.retention.value(figure)
    if found is not None or ours is None or theirs is None:
        return _interval_cell(found, form)
    # A task of lm-evaluation-harness, which is not known question by question.
    errors = [one.retention.value(f"{figure}_se") for one in (stage, other)]
    if any(error is None for error in errors):
        return Cell(form.difference(ours - theirs))
    low, high = of_independent(ours - theirs, *(error for error in errors if error is not None))
    return Cell(form.difference(ours - theirs), form.interval(low, high, "+"))


def costs(record: RunRecord) -> Table:
    """Return the cost of every stage and the total. Repeated work is counted each time."""
    # Benchmarks requested afterwards are not part of the run's cost.
    everything = [entry for entry in record.journal if entry["phase"] in MADE and "seconds" in entry]
    found = {entry["phase"] for entry in everything}
    steps = [*COSTED_STEPS, *(step for step in (Step.RETENTION, Step.TEST) if step in found)]
    headings = ["stage", *steps, "total", "tokens generated", "gradient steps", "pairs", "compute"]
    rows = []
    for stage, opens in _in_groups(record):
        entries = [entry for entry in everything if entry["stage"] == stage.name]
        rows.append(Row(_label(stage), _cost(entries, steps), opens_group=opens))
    if everything:
        rows.append(Row("total", _cost(everything, steps, with_pairs=False), opens_group=True))
    return Table(headings, rows)


def devices(record: RunRecord) -> str:
    """Return the devices that the run used, according to the journal."""
    found = dict.fromkeys(
        f"{entry['device']}" + (f" × {entry['processes']}" if entry.get("processes", 1) != 1 else "")
        for entry in record.journal
        if entry.get("device")
    )
    return ", ".join(found)


def _in_groups(record: RunRecord) -> list[tuple[StageRecord, bool]]:
    """Return the stages, each with a flag that is true if a baseline arm or DPO's stages begin with it."""
    before = [SELF_PLAY, *(stage.arm for stage in record.stages)]
    return [
        (stage, stage.arm in (*record.arms, DPO) and stage.arm != last)
        for last, stage in zip(before, record.stages, strict=False)
    ]


def _label(stage: StageRecord) -> str:
    """Return a stage's label, which may wrap before "iteration" but not after it."""
    return stage.label.replace("iteration ", "iteration\u00a0")


def _compared_with(record: RunRecord, stage: StageRecord) -> StageRecord | None:
    """Return an iteration's opponent, for a baseline the self-play model at the same iteration, for the start the base
    that SFT began from, and for DPO's result the stage that it started from."""
    if stage.name.iteration < 0:
        return record.base if stage is record.start else None
    return record.opponent(stage) if stage.arm in (SELF_PLAY, DPO) else record.at(stage.iteration)


def _measured_cell(measured: Measured, figure: str, form: NumberFormat) -> Cell:
    value, interval = measured.value(figure), interval_of(measured, figure)
    return Cell(form.value(value), form.interval(*interval) if value is not None and interval is not None else "")


def _difference_cell(record: RunRecord, stage: StageRecord, other: StageRecord | None, words: str = "") -> Cell:
    found = None if other is None else record.difference(stage, other, record.metric)
    return _interval_cell(found, record.form(record.metric), words)


def _interval_cell(found: Difference | None, form: NumberFormat, words: str = "") -> Cell:
    if found is None:
        return Cell()
    interval = form.interval(found.low, found.high, "+")
    return Cell(form.difference(found.value), f"{interval}\n{words}" if words else interval)


def _decision(record: RunRecord, stage: StageRecord) -> Cell:
    entry = record.decision(stage)
    if not entry:
        return Cell()
    scale = entry.get("lr_scale") or 1
    return Cell(str(entry.get("decision", MISSING)), f"learning rate × {scale:g}" if scale != 1 else "")


def _cost(entries: Sequence[Entry], steps: Sequence[Step], *, with_pairs: bool = True) -> list[Cell]:
    def total(name: str, step: Step | None = None) -> float | None:
        of_step = [entry for entry in entries if step is None or is_of(entry, step)]
        found = [entry[name] for entry in of_step if isinstance(entry.get(name), int | float)]
        return sum(found) if found else None

    seconds = [total("seconds", step) for step in (*steps, None)]
    return [
        *(Cell() if one is None else Cell(duration(one)) for one in seconds),
        *(Cell() if one is None else Cell(f"{one:,.0f}") for one in (total("tokens"), total("steps"))),
        _pairs(entries) if with_pairs else Cell(""),
        _compute(entries),
    ]


def _compute(entries: Sequence[Entry]) -> Cell:
    """Return the compute in forward passes over a token, and what it consists of."""
    found = compute_of(entries)
    if found is None:
        return Cell()
    parts = [f"{count:,.0f} {name}" for name, count in asdict(found).items() if count]
    return Cell(f"{found.total:,.0f}", ", ".join(parts))


def _pairs(entries: Sequence[Entry]) -> Cell:
    found = [entry["pairs"] for entry in entries if isinstance(entry.get("pairs"), Mapping)]
    if not found:
        given = [entry["preferences"] for entry in entries if isinstance(entry.get("preferences"), int)]
        return Cell(f"{given[-1]:,}", "given") if given else Cell()
    pairs = found[-1]
    odd = [f"{pairs[name]:,} {name}" for name in ("empty", "truncated", "identical", "dropped") if pairs.get(name)]
    return Cell(f"{pairs.get('total', 0):,}", ", ".join(odd))


def facts(record: RunRecord) -> dict[str, str]:
    """Return the facts about a run, each in one line."""
    settings = record.settings
    python = settings.get("python")
    given = python.get("model") if isinstance(python, Mapping) else None
    found = {
        "Model": str(settings.get("model_name_or_path") or given or "built from scratch"),
        "Data": str(settings.get("dataset_name") or "passed from Python"),
        "Objective": _joined_list(settings.get("loss_type") or "sigmoid", " + "),
        "Iterations": f"{len(record.iterations)} of {record.planned}",
        "Baseline": ", ".join(arm_in_words(arm) for arm in record.arms) or "none",
        "DPO on top": _dpo(record),
        "Scorer": _joined_list(settings.get("scorer") or "", ", "),
        "Rubric": _criteria(settings.get("rubric")),
        "Judge": who_judged(record),
        "Judge's faults": faults_of_judge(record),
        "Generated code": _isolation(record),
        "Held out": MISSING if record.held_out is None else counted(record.held_out, "prompt"),
        "Test set": counted(record.num_tested, "prompt") if record.num_tested else "",
    }
    # The full texts are in the settings.
    short = {name: f"{text[:LONGEST_FACT]}…" for name, text in found.items() if len(text) > LONGEST_FACT}
    return {name: text for name, text in (found | short).items() if text}


def _dpo(record: RunRecord) -> str:
    """Describe DPO on top: the models it started from, and the number of pairs; empty without it."""
    if not record.after_dpo:
        return ""
    of = ", ".join(the_stage_of(stage.name.origin) for stage in record.after_dpo)
    pairs = record.prepared_set(PAIRS).get("rows")
    return f"on {of}" + (f", {counted(pairs, 'preference pair')}" if pairs else "")


def _criteria(rubric: Any) -> str:
    """Describe a rubric: its criteria, with their weights unless these are 1; empty without one."""
    listed = rubric.get("criteria") if isinstance(rubric, Mapping) else None
    criteria = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    weights = [one.get("weight", 1) for one in criteria]
    return ", ".join(
        f"{one.get('name')}" + (f" (weight {weight})" if weight != 1 else "")
        for one, weight in zip(criteria, weights, strict=True)
    )


def _isolation(record: RunRecord) -> str:
    """Describe the isolation of the code that a scorer ran; empty if none did."""
    found = [entry[ISOLATION] for entry in record.journal if is_of(entry, Step.EVALUATE) and ISOLATION in entry]
    every = {tuple(map(str, layers)) for layers in found}  # a run may continue on another machine
    return "; ".join(sorted(map(in_words, every)))


def _joined_list(value: Any, between: str) -> str:
    return between.join(map(str, value)) if isinstance(value, list) else str(value)
