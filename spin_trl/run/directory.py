"""The paths in a run directory. Phases find each other's results only through these paths."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import RunDirectoryError
from ..files import JOURNAL, home_expanded
from .lock import only_process
from .marker import MARKER
from .ownership import RECIPE, Ownership
from .possible_path import refusing_path
from .stage import BASE, START, Stage

LOCK = ".lock"
PHASE_LOCK = ".phase.lock"
"""Held by the process that runs a phase. A launched phase outlives a killed loop, and must not run next to its successor."""


class _Entry:
    """A path in a run directory, as an attribute of it: the actual path of the run's own entry, whether it exists or not.

    Args:
        name: usual path of the entry.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, directory: RunDirectory, kind: type) -> Path:
        return directory.stage(self.name)


class RunDirectory:
    """The paths of a run. A stage is the base, the start, an iteration, a baseline arm at an iteration, or DPO's result
    from one of the first three; each has a model.

    Every path is the actual path of the run's own entry, whether it exists or not: see [`ownership`]. Code that creates a
    top-level entry calls [`RunDirectory.own`] first.

    Args:
        path: path of the directory; `~` is the user's home. It need not exist yet.
    """

    recipe = _Entry(RECIPE)
    """The settings, frozen at the start."""
    journal = _Entry(JOURNAL)
    """The record of finished steps."""
    train_rows = _Entry("data/train")
    """Prepared rows to train on."""
    held_out_rows = _Entry("data/held-out")
    """Prepared rows to evaluate on."""
    best = _Entry("best.json")
    """The file that names the best stage so far."""
    best_link = _Entry("best")
    """The link to the model of the best stage."""
    table = _Entry("table.txt")
    """The figures of all stages, as text."""
    plot = _Entry("plot.png")
    """Plots of the figures of all stages."""
    progress = _Entry(".progress.json")
    """The progress of a phase that runs in a separate process."""
    tensorboard = _Entry("tensorboard")
    """Logs for TensorBoard."""
    trackers = _Entry("trackers")
    """Logs of other trackers that need a folder."""
    report = _Entry("report.html")
    """The report."""
    hub = _Entry("hub")
    """Files written for the Hub in addition to the models' own cards."""
    baselines = _Entry("baseline")
    """Folder of the baseline arms."""
    scored_pairs = _Entry("pairs")
    """Folder of preference pairs made from scored samples."""
    after_dpo = _Entry("dpo")
    """Folder of the models that DPO trained further."""
    pairs = _Entry("data/dpo")
    """Preference pairs for DPO on top."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = home_expanded(path)
        self.ownership = Ownership(self.path)

    def own(self, name: str) -> Path:
        """Record that a top-level entry belongs to the run, before it is created. Return the path to create it at.

        Args:
            name: name of the entry, like `report.html`, or of a stage, like `baseline/sft/iteration-0`.
        """
        top, _, below = name.partition("/")
        return self.ownership.own(top) / below

    def stage(self, name: str) -> Path:
        """Return the folder of a stage, or the path of any other entry, whether it exists or not."""
        top, _, below = name.partition("/")
        return self.ownership.place(top) / below

    def iterations(self) -> list[int]:
        """Return the numbers of the iterations that have a folder, in order."""
        return list(self.ownership.iterations())

    def stages(self) -> list[Stage]:
        """Return the base (if it has a folder), the start, and the iterations, baseline arms and DPO's stages with a folder,
        in order."""
        found = [
            Stage.of(int(number), path.parent.name)
            for path in self.baselines.glob("*/iteration-*")
            if (number := path.name.removeprefix("iteration-")).isdecimal()
        ]
        first = [BASE, START] if self.stage(BASE).is_dir() else [START]
        of_self_play = [*first, *map(Stage.of, self.iterations())]
        of_dpo = [
            one for one in map(Stage.after_dpo, [BASE, START, *of_self_play[len(first) :]]) if self.stage(one).is_dir()
        ]
        return [*of_self_play, *sorted(found, key=lambda one: (one.arm, one.iteration)), *of_dpo]

    def model(self, stage: str) -> Path:
        """Return the folder of a stage's model: its weights, or its adapter."""
        return self.stage(stage) / "model"

    def tokenizer(self) -> Path:
        """Return the folder of the tokenizer that was built for a start from scratch."""
        return self.stage(START) / "tokenizer"

    def generations(self, stage: str) -> Path:
        """Return the folder of the opponent's answers to the training prompts of a stage."""
        return self.stage(stage) / "generations"

    def ahead(self, stage: str) -> Path:
        """Return the folder of a stage's answers to the training prompts of an iteration that may start from it."""
        return self.stage(stage) / "ahead"

    def parts(self, stage: str) -> Path:
        """Return the folder of the parts of a stage's generations that several machines generate."""
        return self.stage(stage) / "parts"

    def training(self, stage: str) -> Path:
        """Return the folder of a stage's training checkpoints, which are deleted once its model is saved."""
        return self.stage(stage) / "train"

    def held_out(self, stage: str) -> Path:
        """Return the folder of a stage's answers to the held-out prompts and its log-probabilities on them."""
        return self.stage(stage) / "held-out"

    def metrics(self, stage: str) -> Path:
        """Return the file with the held-out figures of a stage's model."""
        return self.stage(stage) / "metrics.json"

    def values(self, stage: str) -> Path:
        """Return the file with a stage's figures per prompt, for comparisons with other models."""
        return self.held_out(stage) / "values.json"

    def histograms(self, stage: str) -> Path:
        """Return the file with the histograms of the log-ratios of real and generated held-out responses."""
        return self.stage(stage) / "histograms.json"

    def samples(self, stage: str) -> Path:
        """Return the file with the held-out prompts and their real and generated responses."""
        return self.stage(stage) / "samples.jsonl"

    def review_page(self, stage: str) -> Path:
        """Return the page on which people compare a stage's answers with others."""
        return self.stage(stage) / "review.html"

    def assignment(self, stage: str) -> Path:
        """Return the file that says which answer of a stage's review page is whose."""
        return self.stage(stage) / "review.json"

    @property
    def start_logps(self) -> Path:
        """The folder of the start's log-probabilities of training responses, for `opponent_mix`."""
        return self.stage(START) / "logps"

    def measured_rows(self, name: str) -> Path:
        """Return the folder of the prepared rows of the test or the retention set ([`TEST`], [`RETENTION`])."""
        return self.stage(f"data/{name}")

    def measured_on(self, stage: str, name: str) -> Path:
        """Return the folder of a stage's results on the test or the retention set ([`TEST`], [`RETENTION`])."""
        return self.stage(stage) / name

    def benchmarks(self, stage: str) -> Path:
        """Return the folder of lm-evaluation-harness's results for a stage's model, one file per benchmark."""
        return self.stage(stage) / "lm-eval"

    def dataset_card(self) -> Path:
        """Return the card of the dataset of the run's pairs."""
        return self.hub / "dataset" / "README.md"

    def claim(self, existing_run: str, recipe: Path | None = None) -> None:
        """Claim the directory for a run, or check that it belongs to one.

        Args:
            existing_run: how to treat a run that is already there: the setting `existing_run`.
            recipe: as in [`Ownership.check`].

        Raises:
            RunDirectoryError: if there is a run and `existing_run` is `fail`, or as in [`Ownership.check`].
        """
        if existing_run == "fail" and self.ownership.holds_run() and self.recipe.exists():
            raise RunDirectoryError(f"{self.path} already contains a run, and `existing_run` is `fail`.")
        self.ownership.claim(recipe)
        if existing_run == "overwrite":
            self.clear()

    def check_run(self) -> None:
        """Raise if there is no run in the directory, even if a recipe is there. Runs of version 0.1.0 have no marker.

        Raises:
            RunDirectoryError: if the directory is missing, or contains neither a run's marker nor a journal.
        """
        if not self.path.exists():
            raise RunDirectoryError(
                f"There is no folder {self.path}. Name a run directory: a folder to which a run has written {RECIPE} and "
                f"{JOURNAL}."
            )
        if self.ownership.holds_run() or self.journal.exists():
            return
        message = f"{self.path} is not a run directory: it contains neither {JOURNAL} nor {MARKER}, which a run writes"
        if self.recipe.exists():
            raise RunDirectoryError(
                f"{message}. Name the directory of its {RECIPE}'s run: runs/NAME, unless set otherwise."
            )
        raise RunDirectoryError(f"{message} next to {RECIPE}.")

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove everything that belongs to the run, except the locks, and nothing else: see [`Ownership.clear`]."""
        self.ownership.clear(keep)

    @contextlib.contextmanager
    def locked(self, lock_name: str = LOCK, wait: float = 0.0) -> Iterator[None]:
        """Keep a second process from playing the same run, or the same phase.

        Args:
            lock_name: name of the lock file: of the run, or of the phase.
            wait: as in [`lock.only_process`].

        Raises:
            RunDirectoryError: if another process is playing the run, or the path can't be a folder.
        """
        with contextlib.ExitStack() as stack:
            with refusing_path(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(only_process(self.path / lock_name, self.path, wait))
            yield
