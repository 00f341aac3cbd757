"""`SelfPlay`: all iterations of a run, one after the other. There is one loop; how a phase is launched is a parameter.

For every iteration t: θ_t answers the prompts (generate), θ_{t+1} learns to prefer the human responses (train), and is
measured on held-out prompts (evaluate). The best model so far is always known.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from rich.console import Console
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from .. import data
from ..config import SelfPlayConfig, SPINConfig, StartConfig
from ..errors import DataError, LaunchError, RunDirectoryError
from ..files import read_json, write_atomically
from ..models import digest
from ..report.plot import Points, plot_run
from ..report.table import run_table
from .baseline import arm_name, save_model
from .best import deliver_best, tidy
from .directory import START, RunDirectory, baseline_stage, iteration_stage
from .freeze import freeze, python_settings
from .phases import Launch, in_this_process
from .run import Run, Scorer
from .start import make_tokenizer

logger = logging.getLogger(__name__)

PACKAGES = ("spin_trl", "torch", "transformers", "trl", "peft", "datasets", "accelerate")
SMOKE_ROWS = 8


@dataclass(frozen=True)
class RunResult:
    """What a run delivers.

    Attributes:
        best_stage: `start`, or the iteration with the best figure.
        best_model: its folder, or Hub name.
        figures: held-out figures by stage: the start, the iterations, and the baseline arms.
        directory: the run directory.
    """

    best_stage: str
    best_model: str
    figures: dict[str, dict[str, float]]
    directory: Path


class SelfPlay:
    """A self-play run: `SelfPlay(model="...", args=SPINConfig(...), play=SelfPlayConfig(), train_dataset=...).run()`.

    Calling `run()` again, in this process or in another one, goes on where the run was interrupted.

    Args:
        model: θ_0: a Hub name, a folder, a model, or None to build a small one from `start`.
        args: settings of an iteration.
        play: settings of the loop.
        train_dataset: human responses (see [`spin_trl.data`]).
        eval_dataset: held-out responses; None: a share of the prompts is held out.
        processing_class: the tokenizer; None: the model's own.
        peft_config: LoRA; None for full fine-tuning.
        quantization_config: how the base model is quantised when it is loaded.
        start: how θ_0 is built if `model` is None.
        scorer: called with prompt, real and generated text of every held-out prompt.
        launch: runs a phase; by default in this process.

    Raises:
        DataError: the data can't be used, or has changed since the run was started.
        RunDirectoryError: the run directory belongs to a run with other settings, or is in use.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | None,
        args: SPINConfig | None = None,
        play: SelfPlayConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        quantization_config: BitsAndBytesConfig | None = None,
        start: StartConfig | None = None,
        scorer: Scorer | None = None,
        launch: Launch = in_this_process,
        settings: dict[str, Any] | None = None,
    ) -> None:
        args, play = args or SPINConfig(), play or SelfPlayConfig()
        if train_dataset is None:
            raise DataError("`train_dataset` is required: prompts with human responses.")
        if not data.is_sft(train_dataset) or not isinstance(train_dataset, Dataset):
            raise DataError(
                f"Self-play needs prompts with human responses, as a `Dataset`; the columns {train_dataset.column_names} "
                "are something else. Given pairs (`chosen` and `rejected`) are for SPINTrainer: there is nothing to iterate."
            )
        smoke = SMOKE_ROWS if play.smoke else len(train_dataset)
        self.train_dataset = train_dataset.select(range(min(smoke, len(train_dataset))))
        self.eval_dataset = (
            eval_dataset.select(range(min(smoke, len(eval_dataset)))) if eval_dataset is not None else None
        )
        self.launch = launch
        self.directory = RunDirectory(play.run_dir or args.output_dir)
        self._model_object = None if isinstance(model, str) or model is None else model
        name = model if self._model_object is None else str(self.directory.model(START))
        self.session = Run(
            directory=self.directory,
            args=args,
            play=play,
            model=name,
            start=start or StartConfig(),
            peft_config=peft_config,
            quantization_config=quantization_config,
            scorer=scorer,
            processing_class=processing_class,
        )
        self._settings = settings or python_settings(self.session)
        self.console = Console()

    def run(self) -> RunResult:
        """Play all iterations that are not done yet.

        Returns:
            Where the best model is, and the figures of all stages.
        """
        self._check_launcher()
        run, main = self.session, PartialState().is_main_process
        with self.directory.locked() if main else contextlib.nullcontext():
            self._set_up()
            self.launch(run, "start", 0)
            for iteration in range(run.play.num_iterations):
                for phase in ("generate", "train", "evaluate"):
                    self.launch(run, phase, iteration)
                if run.play.baseline is not None:
                    self.launch(run, "baseline", iteration)
                best = deliver_best(run, self._played(iteration)) if main else None
                PartialState().wait_for_everyone()
                if main:
                    tidy(run, iteration, best["stage"])
                    self._show(iteration, best["stage"])
        best = read_json(self.directory.best)
        return RunResult(best["stage"], best["model"], self._figures(run.play.num_iterations - 1), self.directory.path)

    def run_phase(self, phase: str, iteration: int) -> None:
        """Run one phase of one iteration here, under whatever launched this process; skipped if it is done.

        Args:
            phase: `start`, `generate`, `train`, `evaluate` or `baseline`.
            iteration: 0-based. The phases before it must have finished.
        """
        self._set_up()
        in_this_process(self.session, phase, iteration)

    def _set_up(self) -> None:
        """Settings frozen, data prepared: what all phases rely on."""
        if PartialState().is_main_process:
            self._claim_directory()
        PartialState().wait_for_everyone()
        self._prepare()

    def _check_launcher(self) -> None:
        for variable, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
            if os.environ.get(variable, "").lower() == "true":
                raise LaunchError(
                    f"A whole run can't be played under {name}: generation needs whole replicas of the model. Start it "
                    "without a launcher, as `spin-trl run ... --accelerate_config CONFIG`: every phase is then launched "
                    "as it has to be."
                )

    def _claim_directory(self) -> None:
        play, directory = self.session.play, self.directory
        if directory.recipe.exists():
            if play.existing_run == "fail":
                raise RunDirectoryError(f"{directory.path} holds a run already, and `existing_run` is `fail`.")
            if play.existing_run == "overwrite":
                for path in directory.path.iterdir():
                    if path.name != ".lock":
                        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        freeze(self.session, self._settings)
        if self._model_object is not None:
            self._keep_model(self._model_object)

    def _keep_model(self, model: PreTrainedModel) -> None:
        """A model that was passed as an object becomes a folder, from which every phase loads."""
        run = self.session
        found, known = digest(model), run.done("given", START)
        if known is None:
            save_model(model, run.processing_class or run.tokenizer(), self.directory.model(START))
            run.journal.append("given", START, digest=found)
        elif known["digest"] != found:
            raise RunDirectoryError(f"{self.directory.path} was started from another model than the one given now.")

    def _prepare(self) -> None:
        """Turn the dataset into rows of tokens, once; later calls only see to it that it is still the same dataset."""
        if self.session.model is None:
            make_tokenizer(self.session, self.train_dataset)
        if PartialState().is_main_process:
            keys = data.row_keys(self.train_dataset)
            held_out = None if self.eval_dataset is None else data.row_keys(self.eval_dataset).digest
            known = self.session.done("prepare", "data")
            if known is None:
                self._prepare_rows(keys, held_out)
            else:
                self._check_unchanged(known, {"dataset": keys.digest, "held_out_dataset": held_out})
        PartialState().wait_for_everyone()

    def _check_unchanged(self, known: dict[str, Any], now: dict[str, Any]) -> None:
        for name, digest_now in now.items():
            if known[name] != digest_now:
                raise DataError(
                    f"The dataset has changed since {self.directory.path} was started ({name}: {known[name]} then, "
                    f"{digest_now} now), so its generations no longer fit. Restore the data, or start a new run."
                )

    def _prepare_rows(self, keys: data.RowKeys, held_out_digest: str | None) -> None:
        run, args = self.session, self.session.args
        options = {
            "template": run.template(),
            "max_length": args.max_length if args.truncation_mode == "keep_start" else None,
            "turn": args.train_on_turn,
            "num_proc": args.dataset_num_proc,
        }
        rows = data.prepare(self.train_dataset, keys=keys, **options)
        if len(rows) == 0:
            raise DataError(f"Every prompt has {args.max_length} tokens (`max_length`) or more: nothing is left.")
        left_out = len(self.train_dataset) - len(rows) if args.train_on_turn != "all" else None
        if left_out:
            logger.warning(
                "%d of %d rows are left out: their prompts have %s tokens (`max_length`) or more.",
                left_out,
                len(self.train_dataset),
                args.max_length,
            )
        if self.eval_dataset is not None:
            train, held_out = rows, data.prepare(self.eval_dataset, **options)
            held_out = held_out.select(range(min(len(held_out), run.play.held_out_max)))
        else:
            train, held_out = data.split_held_out(rows, run.play.held_out_fraction, run.play.held_out_max)
        for folder, part in ((self.directory.train_rows, train), (self.directory.held_out_rows, held_out)):
            part.save_to_disk(folder)
        run.journal.append(
            "prepare",
            "data",
            dataset=keys.digest,
            held_out_dataset=held_out_digest,
            template=options["template"].digest(),
            train_rows=len(train),
            held_out_rows=len(held_out),
            left_out=left_out,
            versions={name: _version(name) for name in PACKAGES},
        )

    def _played(self, iteration: int) -> dict[str, dict[str, float]]:
        """Figures of the start and of the iterations up to this one: the candidates for the best."""
        stages = [START, *(iteration_stage(t) for t in range(iteration + 1))]
        return {stage: read_json(self.directory.metrics(stage)) or {} for stage in stages}

    def _figures(self, iteration: int) -> dict[str, dict[str, float]]:
        """Figures of all stages up to an iteration, the baseline arms last."""
        figures = self._played(iteration)
        for arm in self._arms():
            for t in range(iteration + 1):
                stage = baseline_stage(arm, t)
                figures[stage] = read_json(self.directory.metrics(stage)) or {}
        return figures

    def _arms(self) -> list[str]:
        play = self.session.play
        return [arm_name(value) for value in play.baseline_label_smoothing] if play.baseline else []

    def _show(self, iteration: int, best: str) -> None:
        """Print the table, and write it and the plot into the run directory."""
        figures = self._figures(iteration)
        table = run_table(figures, best, title=f"{self.directory.path.name}: after iteration {iteration}")
        self.console.print(table)
        wide = Console(width=200, record=True, file=open(os.devnull, "w"))
        wide.print(table)
        text = wide.export_text()
        write_atomically(self.directory.table, lambda path: path.write_text(text))
        plot_run(self.directory.plot, self._curves(iteration, figures), self.session.play.metric_for_best_iteration)

    def _curves(self, iteration: int, figures: dict[str, dict[str, float]]) -> dict[str, Points]:
        steps = [0.0]
        for t in range(iteration + 1):
            steps.append(steps[-1] + (self.session.done("train", iteration_stage(t)) or {}).get("steps", 0))
        curves = {"self-play": [figures[START]] + [figures[iteration_stage(t)] for t in range(iteration + 1)]}
        for arm in self._arms():
            curves[arm] = [figures[START]] + [figures[baseline_stage(arm, t)] for t in range(iteration + 1)]
        return {name: list(zip(steps, points, strict=True)) for name, points in curves.items()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
