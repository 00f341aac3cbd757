"""Where a run keeps everything. Phases know each other's results by these paths alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import RunDirectoryError

START = "start"
LOCK = ".lock"
PHASE_LOCK = ".phase.lock"
"""Held by whatever runs a phase: a launch of its own outlives a loop that is killed, and must not meet its successor."""


def iteration_stage(iteration: int) -> str:
    """Name of the stage that iteration `iteration` (0-based) is."""
    return f"iteration-{iteration}"


def iteration_number(stage: str) -> int:
    """The iteration (0-based) that a stage is; of the start -1, which comes before the first."""
    return -1 if stage == START else int(stage.rpartition("-")[2])


def arm_name(label_smoothing: float) -> str:
    """Name of the arm with this much label smoothing."""
    return "sft" if label_smoothing == 0 else f"sft-smoothing-{label_smoothing:g}"


def baseline_stage(arm: str, iteration: int) -> str:
    """Name of the stage of a baseline arm that belongs to an iteration."""
    return f"baseline/{arm}/{iteration_stage(iteration)}"


class RunDirectory:
    """Paths of a run. A stage is the start, an iteration, or a baseline arm at an iteration; each has a model."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.journal = self.path / "journal.jsonl"
        self.train_rows = self.path / "data" / "train"
        self.held_out_rows = self.path / "data" / "held-out"
        self.best = self.path / "best.json"
        self.best_link = self.path / "best"
        self.table = self.path / "table.txt"
        self.plot = self.path / "plot.png"
        self.progress = self.path / ".progress.json"
        self.tensorboard = self.path / "tensorboard"
        self.trackers = self.path / "trackers"
        self.report = self.path / "report.html"
        self.hub = self.path / "hub"

    def stage(self, stage: str) -> Path:
        """Folder of a stage."""
        return self.path / stage

    def model(self, stage: str) -> Path:
        """The model that a stage made: the weights, or the adapter."""
        return self.path / stage / "model"

    def tokenizer(self) -> Path:
        """The tokenizer that was built for a start from scratch."""
        return self.path / START / "tokenizer"

    def generations(self, stage: str) -> Path:
        """What the opponent of a stage answered to the training prompts."""
        return self.path / stage / "generations"

    def training(self, stage: str) -> Path:
        """Checkpoints of a stage's training; they go when its model is there."""
        return self.path / stage / "train"

    def held_out(self, stage: str) -> Path:
        """What a stage's model answered to the held-out prompts, and its log-probabilities there."""
        return self.path / stage / "held-out"

    def metrics(self, stage: str) -> Path:
        """Held-out figures of a stage's model."""
        return self.path / stage / "metrics.json"

    def values(self, stage: str) -> Path:
        """A stage's figures prompt by prompt, for comparisons with other models."""
        return self.held_out(stage) / "values.json"

    def histograms(self, stage: str) -> Path:
        """How the log-ratios of real and generated held-out responses are spread."""
        return self.path / stage / "histograms.json"

    def samples(self, stage: str) -> Path:
        """Held-out prompts with the real and the generated response."""
        return self.path / stage / "samples.jsonl"

    def benchmarks(self, stage: str) -> Path:
        """What lm-evaluation-harness found of a stage's model, a file a benchmark."""
        return self.path / stage / "lm-eval"

    def dataset_card(self) -> Path:
        """Card of the dataset that the run's pairs make."""
        return self.hub / "dataset" / "README.md"

    def clear(self) -> None:
        """Remove what a run writes, but not the locks; files of other origin stay."""
        folders = [self.path / "data", self.path / START, self.path / "baseline", *self.path.glob("iteration-*")]
        folders += [self.tensorboard, self.trackers, self.hub]
        for path in folders:
            shutil.rmtree(path, ignore_errors=True)
        for path in (
            self.recipe,
            self.journal,
            self.best,
            self.best_link,
            self.table,
            self.plot,
            self.progress,
            self.report,
        ):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, lock_name: str = LOCK) -> Iterator[None]:
        """Keep a second process from playing the same run, or the same phase.

        Raises:
            RunDirectoryError: another process is at it, or the path can't be a folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / lock_name).open("w", encoding="utf-8")
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise RunDirectoryError(f"{self.path} can't be a run directory: {error}") from error
        with file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunDirectoryError(
                    f"Another process is playing {self.path}. Wait for it, or use another run_dir."
                ) from None
            yield


def replace_folder(unfinished: Path, folder: Path) -> None:
    """Move a folder that is complete to where others look for it."""
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
