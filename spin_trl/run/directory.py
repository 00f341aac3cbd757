"""Where a run keeps everything. Phases know each other's results by these paths alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import RunDirectoryError
from ..files import JOURNAL, home_expanded
from .lock import only_process
from .ownership import RECIPE, Ownership
from .possible_path import refusing_path
from .stage import START, Stage

LOCK = ".lock"
PHASE_LOCK = ".phase.lock"
"""Held by whatever runs a phase: a launch of its own outlives a loop that is killed, and must not meet its successor."""


class _Entry:
    """A path below a run directory, as an attribute of it: where the run's own entry is, or would be.

    Args:
        name: usual path of the entry.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, directory: RunDirectory, kind: type) -> Path:
        return directory.stage(self.name)


class RunDirectory:
    """Paths of a run. A stage is the start, an iteration, or a baseline arm at an iteration; each has a model.

    Every path is where the run's own entry is, or would be: see [`ownership`]. Whoever creates an entry at the top of the
    directory calls [`RunDirectory.own`] first.

    Args:
        path: of the directory; `~` is the user's home. It need not exist yet.
    """

    recipe = _Entry(RECIPE)
    """The settings, frozen at the start."""
    journal = _Entry(JOURNAL)
    """What finished."""
    train_rows = _Entry("data/train")
    """Prepared rows to train on."""
    held_out_rows = _Entry("data/held-out")
    """Prepared rows to evaluate on."""
    best = _Entry("best.json")
    """Which stage is the best so far."""
    best_link = _Entry("best")
    """Link to the model of that stage."""
    table = _Entry("table.txt")
    """The figures of all stages, as text."""
    plot = _Entry("plot.png")
    """The figures of all stages, drawn."""
    progress = _Entry(".progress.json")
    """How far a phase has come that runs in a process of its own."""
    tensorboard = _Entry("tensorboard")
    """Logs for TensorBoard."""
    trackers = _Entry("trackers")
    """Logs of other trackers that need a folder."""
    report = _Entry("report.html")
    """The report."""
    hub = _Entry("hub")
    """What is written for the Hub beside the models' own cards."""
    baselines = _Entry("baseline")
    """Folder of the baseline arms."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = home_expanded(path)
        self.ownership = Ownership(self.path)

    def own(self, name: str) -> Path:
        """Write down that an entry at the top belongs to the run, before it is created. Returns where it is to be.

        Args:
            name: of the entry, like `report.html`, or of a stage, like `baseline/sft/iteration-0`.
        """
        top, _, below = name.partition("/")
        return self.ownership.own(top) / below

    def stage(self, name: str) -> Path:
        """Folder of a stage, or where any other entry is, or would be."""
        top, _, below = name.partition("/")
        return self.ownership.place(top) / below

    def iterations(self) -> list[int]:
        """Numbers of the iterations that have a folder, in order."""
        return list(self.ownership.iterations())

    def stages(self) -> list[Stage]:
        """The start, then the iterations and the baseline arms that have a folder, each in order."""
        found = [
            Stage.of(int(number), path.parent.name)
            for path in self.baselines.glob("*/iteration-*")
            if (number := path.name.removeprefix("iteration-")).isdecimal()
        ]
        return [START, *map(Stage.of, self.iterations()), *sorted(found, key=lambda one: (one.arm, one.iteration))]

    def model(self, stage: str) -> Path:
        """The model that a stage made: the weights, or the adapter."""
        return self.stage(stage) / "model"

    def tokenizer(self) -> Path:
        """The tokenizer that was built for a start from scratch."""
        return self.stage(START) / "tokenizer"

    def generations(self, stage: str) -> Path:
        """What the opponent of a stage answered to the training prompts."""
        return self.stage(stage) / "generations"

    def training(self, stage: str) -> Path:
        """Checkpoints of a stage's training; they go when its model is there."""
        return self.stage(stage) / "train"

    def held_out(self, stage: str) -> Path:
        """What a stage's model answered to the held-out prompts, and its log-probabilities there."""
        return self.stage(stage) / "held-out"

    def metrics(self, stage: str) -> Path:
        """Held-out figures of a stage's model."""
        return self.stage(stage) / "metrics.json"

    def values(self, stage: str) -> Path:
        """A stage's figures prompt by prompt, for comparisons with other models."""
        return self.held_out(stage) / "values.json"

    def histograms(self, stage: str) -> Path:
        """How the log-ratios of real and generated held-out responses are spread."""
        return self.stage(stage) / "histograms.json"

    def samples(self, stage: str) -> Path:
        """Held-out prompts with the real and the generated response."""
        return self.stage(stage) / "samples.jsonl"

    def benchmarks(self, stage: str) -> Path:
        """What lm-evaluation-harness found of a stage's model, a file a benchmark."""
        return self.stage(stage) / "lm-eval"

    def dataset_card(self) -> Path:
        """Card of the dataset that the run's pairs make."""
        return self.hub / "dataset" / "README.md"

    def claim(self, existing_run: str, recipe: Path | None = None) -> None:
        """Make the directory a run's own, or see that it is.

        Args:
            existing_run: what becomes of a run that is there: the setting of that name.
            recipe: as in [`Ownership.check`].

        Raises:
            RunDirectoryError: there is a run, and it is to stay as it is; or as in [`Ownership.check`].
        """
        if existing_run == "fail" and self.ownership.holds_run() and self.recipe.exists():
            raise RunDirectoryError(f"{self.path} holds a run already, and `existing_run` is `fail`.")
        self.ownership.claim(recipe)
        if existing_run == "overwrite":
            self.clear()

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove what belongs to the run, but not the locks, and nothing else: see [`Ownership.clear`]."""
        self.ownership.clear(keep)

    @contextlib.contextmanager
    def locked(self, lock_name: str = LOCK, wait: float = 0.0) -> Iterator[None]:
        """Keep a second process from playing the same run, or the same phase.

        Args:
            lock_name: which of the two.
            wait: as in [`lock.only_process`].

        Raises:
            RunDirectoryError: another process is at it, or the path can't be a folder.
        """
        with contextlib.ExitStack() as stack:
            with refusing_path(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(only_process(self.path / lock_name, self.path, wait))
            yield
