"""Gathers the contents of a run directory and writes its report, `report.html`.

The run directory is all that is needed: no data, model or settings from elsewhere. So a report can be written while a run
is playing, after it has ended, or after it was interrupted.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..counts import agreeing, counted
from ..errors import FORBIDDEN, RunDirectoryError
from ..evaluation.degeneration import findings
from ..evaluation.figures import SCORE
from ..files import home_expanded, parse_json, write_text
from ..run.directory import RunDirectory
from ..run.journal import MEASURED_SETS, OF_THE_HUB, PAIRS
from ..run.objects import read_object
from ..run.stage import SELF_PLAY, Stage
from .charts import all_charts
from .formats import duration
from .html.page import render
from .html.samples import MOST_OTHERS, Shown, choose_samples, evenly, sections
from .record import RunRecord, StageRecord, read_record
from .review.waiting import waiting_in_words
from .reviews import review_note, reviews, reviews_in_words
from .tables import costs, devices, facts, figures, final_test, retention, standings
from .text import cut
from .verdict import on_choice, remarks, verdict

REPORT = "report.html"

LONGEST_SETTINGS = 100_000
"""Maximum number of characters of the recipe that are shown."""

_MANIFEST = "generations.json"


def write_report(
    directory: RunDirectory, record: RunRecord | None = None, output: str | os.PathLike[str] | None = None
) -> Path:
    """Write the report of the current state of a run, replacing the previous one.

    Args:
        directory: run directory.
        record: record of the run, if it has already been read.
        output: file to write instead of the run's own report, or a folder for it. Nothing in the run directory changes then.

    Returns:
        Path of the report.

    Raises:
        RunDirectoryError: if there is no run, one of its files can't be read, or its directory can't be written to.
    """
    directory.check_run()
    page = render(gather(directory, record))
    if output is not None:
        path = home_expanded(output)
        path = path / REPORT if path.is_dir() else path
        write_text(path, page)
        return path
    try:
        report = directory.own(REPORT)
        write_text(report, page)
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
        raise RunDirectoryError(
            f"{directory.path} can't be written to ({error.strerror}). `spin-trl report --output PATH` writes the report "
            "elsewhere."
        ) from error
    return report


def gather(directory: RunDirectory, record: RunRecord | None = None) -> dict[str, Any]:
    """Gather the contents of a run's report, by the names that its template uses.

    Args:
        directory: run directory.
        record: record of the run, if it has already been read.

    Raises:
        RunDirectoryError: if there is no run, or one of its files can't be read.
    """
    try:
        record = record or read_record(directory)
        shown = _shown_samples(directory, record)
        settings = directory.recipe.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        if isinstance(error, RunDirectoryError):
            raise
        raise RunDirectoryError(f"A file in {directory.path} can't be read: {error}") from error
    text, left_out = cut(settings, LONGEST_SETTINGS)
    return {
        "name": record.name,
        "verdict": verdict(record),
        "remarks": [*remarks(record), *reviews_in_words(record), *waiting_in_words(directory, record)],
        "warnings": _warnings(record),
        "facts": facts(record),
        "standings": standings(record),
        "on_choice": on_choice(record),
        "final_test": final_test(record),
        "retention": retention(record),
        "reviews": reviews(record),
        "review_note": review_note(record),
        "figures": figures(record),
        "costs": costs(record),
        "groups": all_charts(record),
        "shown": shown,
        "settings": f"{text}\n… and {counted(left_out, 'more character')}" if left_out else text,
        "versions": _versions(directory, record),
        "digests": digests(directory, record),
        "period": _period(record),
        "devices": devices(record),
        "made_by": made_by(),
    }


def made_by() -> str:
    """Return the name and version of this package."""
    try:
        return f"spin_trl {importlib.metadata.version('spin_trl')}"
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "spin_trl"


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples of a stage; none if there is no file.

    Raises:
        RunDirectoryError: if a line is not a sample.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="surrogatepass") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = parse_json(line)
            except ValueError as error:
                raise RunDirectoryError(f"{path}, line {number} is not valid JSON: {error}") from error
            if not isinstance(row, dict) or not isinstance(row.get("key"), str):
                raise RunDirectoryError(
                    f"{path}, line {number} is not a sample: expected a JSON object with a string `key`."
                )
            yield row


def _shown_samples(directory: RunDirectory, record: RunRecord) -> Shown | None:
    """Choose the samples for the page: the best model's (the newest's if that is the start), with the others' answers."""
    stage = _to_show(directory, record)
    if stage is None:
        return None
    path = directory.samples(stage.name)
    places = {row["key"]: number for number, row in enumerate(read_samples(path), start=1)}
    figure = _scored_by(record, stage)
    ours = stage.values.get(figure, {})
    starts = record.start.values.get(figure, {}) if record.start is not None and stage is not record.start else {}
    if not record.greater_is_better and figure == record.metric:
        ours, starts = starts, ours
    choices = choose_samples(list(places), ours, starts)
    wanted = {key for choice in choices for key in choice.keys}
    others = [one for one in record.stages if one is not stage and directory.samples(one.name).exists()]
    # Only these are shown, and reading the samples of every stage of a long run would take too long.
    read = evenly(others, MOST_OTHERS)
    samples = {
        one.label: {row["key"]: row for row in read_samples(directory.samples(one.name)) if row["key"] in wanted}
        for one in (stage, *read)
    }
    shown = sections(choices, places, samples, stage.label, unread=len(others) - len(read))
    return Shown(stage.label, str(path.relative_to(directory.path)), len(places), shown)


def _to_show(directory: RunDirectory, record: RunRecord) -> StageRecord | None:
    candidates = [*record.self_play, *(stage for stage in record.after_dpo if stage is record.best_stage)]
    with_samples = [stage for stage in candidates if directory.samples(stage.name).exists()]
    if record.best_stage in with_samples and record.best_stage is not record.start:
        return record.best_stage
    return with_samples[-1] if with_samples else None


def _scored_by(record: RunRecord, stage: StageRecord) -> str:
    """Return the score that answers are compared by: the run's metric if it is one, else the first, or an empty string."""
    scores = [name for name in stage.values if name.partition("/")[0] == SCORE]
    return record.metric if record.metric in scores else next(iter(scores), "")


def _warnings(record: RunRecord) -> list[str]:
    """Return warnings about rows left out of the data, and about the answers of the delivered and the newest model."""
    thresholds = record.settings.get("degeneration_warn")
    warn = thresholds if isinstance(thresholds, Mapping) else {}
    stages = [stage for stage in (record.best_stage, *record.iterations[-1:]) if stage is not None]
    measured = {stage.label: {n: v for n, v in stage.figures.items() if not math.isnan(v)} for stage in stages}
    answers = [f"{label}: {finding.message}." for label, of in measured.items() for finding in findings(of, warn, {})]
    sets = [
        str(remark) for name in (*MEASURED_SETS, PAIRS) for remark in record.prepared_set(name).get("remarks") or []
    ]
    return [*remarks_on_data(record.prepared), *sets, *answers]


def remarks_on_data(prepared: Mapping[str, Any]) -> list[str]:
    """Return sentences about columns and rows that a run ignores or interprets differently from how they are written.

    Args:
        prepared: journal entry on the data; earlier versions recorded less in it.
    """
    if "remarks" in prepared:
        return [str(remark) for remark in prepared["remarks"] or []]
    bad, too_long = (int(prepared.get(name) or 0) for name in ("bad_rows", "left_out"))
    found = []
    if bad:
        found.append(
            f"{counted(bad, 'row')} left out because {agreeing(bad, 'it', 'they')} can't be used (`bad_rows: skip`)."
        )
    if too_long:
        prompts = agreeing(too_long, "its prompt is", "their prompts are")
        found.append(f"{counted(too_long, 'row')} left out because {prompts} too long (`max_length`).")
    return found


def _versions(directory: RunDirectory, record: RunRecord) -> dict[str, str]:
    """Return the versions of the packages that prepared the data, and of the engines that generated."""
    found = {name: str(version) for name, version in (record.prepared.get("versions") or {}).items() if version}
    folders = [directory.generations(Stage.of(iteration)) for iteration in directory.iterations()]
    engines = {engine for folder in folders if (engine := engine_in_words(read_object(folder / _MANIFEST)))}
    return found | ({"engine": ", ".join(sorted(engines))} if engines else {})


def engine_in_words(manifest: Mapping[str, Any]) -> str:
    """Return the name and version of the engine that generated, from the manifest of generations; empty if not known.

    If it generated with the unquantised base of a quantised model, that is said.
    """
    name = " ".join(str(manifest[name]) for name in ("engine", "engine_version") if manifest.get(name))
    return f"{name}, with the base model unquantised" if name and manifest.get("unquantised_base") else name


def sampled_with(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of sampling and the engine that sampled, from the manifest of generations, for cards."""
    engine = engine_in_words(manifest)
    return dict(manifest.get("sampling") or {}) | ({"engine": engine} if engine else {})


def digests(directory: RunDirectory, record: RunRecord) -> dict[str, str]:
    """Return the hashes of the data, the template, and every model that has generated answers."""
    prepared = record.prepared
    found = {
        "training data": prepared.get("dataset"),
        "held-out data": prepared.get("held_out_dataset"),
        "template": prepared.get("template"),
    }
    found |= {f"{name} data": record.prepared_set(name).get("dataset") for name in MEASURED_SETS}
    found["preference data"] = record.prepared_set(PAIRS).get("dataset")
    for stage in record.stages:
        manifest = read_object(directory.held_out(stage.name) / "sampled" / _MANIFEST)
        if not manifest and stage.arm == SELF_PLAY:
            manifest = read_object(directory.generations(Stage.of(stage.iteration + 1)) / _MANIFEST)
        found[f"model: {stage.label}"] = manifest.get("model")
    return {name: str(digest) for name, digest in found.items() if digest}


def _period(record: RunRecord) -> str:
    # Later pushes to the Hub are not part of the run's time.
    played = [entry for entry in record.journal if entry.get("phase") not in OF_THE_HUB]
    times = [entry["time"] for entry in played if "time" in entry]
    if not times:
        return ""
    first, last = (datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M") for time in (min(times), max(times)))
    return f"From {first} to {last} UTC, {duration(max(times) - min(times))}, including any interruptions."
