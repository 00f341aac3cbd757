"""What every phase needs to know of a run: its settings, its directory, and what belongs to which iteration."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import release_memory
from datasets import Dataset
from peft import PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..config.iteration import SPINConfig
from ..config.loop import SelfPlayConfig, iteration_settings
from ..config.start import StartConfig
from ..data.arrow import load_saved_rows
from ..data.columns import PREPARED_COLUMNS
from ..data.template.pair_template import PairTemplate
from ..errors import DataError, RunDirectoryError, nearest, noted
from ..evaluation.scoring import Scorer, scorer_of
from ..files import definition_of
from ..models.eos import load_eos_ids
from ..models.policy import load_tokenizer
from ..objectives.registry import check_losses
from .directory import RunDirectory
from .journal import DATA, Decisions, Entry, Journal, Step
from .objects import best_stage
from .progress import Progress
from .stage import START, Stage, arm_name

BEST = "best"
"""How a user names the stage that is the best so far."""

LAUNCHED = "SPIN_TRL_LAUNCHED"
"""Environment variable of phases that the loop has launched: it shows how far they are, and says what came of them."""


@dataclass
class Run:
    """A run's settings and directory.

    How far the phase that runs here has come is kept in `progress`, for whoever looks.

    Attributes:
        directory: where everything is.
        args: settings of an iteration, before per-iteration values.
        play: settings of the loop.
        model: Hub name or folder of θ_0, or None: it is built from `start`.
        start: how θ_0 is built.
        peft_config: LoRA, or None for full fine-tuning.
        quantization_config: how the base model is quantised, or None.
        scorer: scores generated responses, or None.
        processing_class: the tokenizer, or None: the model's own.
        given: θ_0 in memory, if it was passed as a model, before the run has kept it. `model` is where it goes.
        sources: names of the data, as set.
        refused: why it can't be played, as far as its settings alone say so.
    """

    directory: RunDirectory
    args: SPINConfig
    play: SelfPlayConfig
    model: str | None
    start: StartConfig = field(default_factory=StartConfig)
    peft_config: Any = None
    quantization_config: BitsAndBytesConfig | None = None
    scorer: Scorer | None = None
    processing_class: PreTrainedTokenizerBase | None = None
    given: PreTrainedModel | PeftModel | None = None
    sources: Mapping[str, Any] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.directory.journal)
        is_told = LAUNCHED in os.environ and PartialState().is_main_process
        self.progress = Progress(file=self.directory.progress if is_told else None)
        names = self.play.scorer
        if self.scorer is None and names is not None:
            self.scorer = noted(self.refused, lambda: scorer_of(names))
        noted(self.refused, lambda: check_losses(self.args.losses))
        self.refused += self._against_objective()

    def _against_objective(self) -> list[str]:
        """What the settings of an iteration and of the loop must be to each other, and are not."""
        args, play, found = self.args, self.play, []
        if "beta" in iteration_settings(play, 0) and not args.uses_beta:
            found.append(f"`beta` has no meaning for {', '.join(map(repr, args.losses))}. Leave it out.")
        for objective, settings in args.objectives:
            found += objective.against_length(settings, play.num_iterations, play.smoke)
        return found

    @property
    def start_model(self) -> str:
        """θ_0."""
        return self.model or str(self.directory.model(START))

    def model_of(self, stage: str) -> str:
        """The model that a stage made; of the start, θ_0."""
        return self.start_model if stage == START else str(self.directory.model(stage))

    @property
    def decisions(self) -> Decisions:
        """What was decided so far on how the run goes on."""
        return Decisions(self.journal.entries())

    def has_begun(self, iteration: int) -> bool:
        """Whether anything of an iteration has been made: from then on it is settled what it starts from."""
        stage = Stage.of(iteration)
        made = self.done(Step.GENERATE, stage) or self.done(Step.TRAIN, stage)
        return made is not None or self.directory.generations(stage).exists()

    def iteration_args(self, iteration: int) -> SPINConfig:
        """Settings of an iteration: its own values of what may differ, its own seed for the order of the data."""
        args = copy.copy(self.args)
        for name, value in iteration_settings(self.play, iteration).items():
            setattr(args, name, value)
        args.learning_rate *= self.decisions.lr_scale(iteration)
        args.seed = self.args.seed + iteration
        args.output_dir = str(self.directory.training(Stage.of(iteration)))
        args.run_name = f"{self.tracker_name}-{Stage.of(iteration)}"
        args.push_to_hub = False  # a run pushes what it accepts; its trainers push nothing
        return args

    @property
    def tracker_name(self) -> str:
        """What the runs of trackers begin with: `run_name`, or the name of the run directory."""
        return self.args.run_name or self.directory.path.resolve().name

    @property
    def arms(self) -> list[str]:
        """Names of the baseline arms."""
        return [arm_name(value) for value in self.play.baseline_label_smoothing] if self.play.baseline else []

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The run's tokenizer, the same in every phase."""
        if self.processing_class is not None:
            return self.processing_class
        return load_tokenizer(self.model or self.directory.tokenizer(), self.args)

    def template(self) -> PairTemplate:
        """What turns prompts and responses into tokens, the same in every phase."""
        return PairTemplate(self.tokenizer(), self.eos_ids(), self.args.template_kwargs)

    @property
    def definition(self) -> int:
        """The definition of digests by which the run has begun: it is continued by that one."""
        return definition_of((self.done(Step.PREPARE, DATA) or {}).get("template"))

    def eos_ids(self) -> list[int]:
        """Ids that end a response, all that the start's files name."""
        path = self.start_model if self.model else None
        return load_eos_ids(path, self.args, self.tokenizer(), self.definition)

    def rows(self, *, held_out: bool = False) -> Dataset:
        """Prepared rows: to train on, or held out.

        Raises:
            DataError: they have not been prepared, or can't be read.
        """
        folder = self.directory.held_out_rows if held_out else self.directory.train_rows
        if not folder.is_dir():
            raise DataError(f"{folder} is missing: the run's data has not been prepared. `spin-trl run` prepares it.")
        if not any(folder.glob("*.arrow")):  # `datasets` writes no file for no rows, and then can't read the folder
            return Dataset.from_dict({column: [] for column in PREPARED_COLUMNS})
        return load_saved_rows(folder)

    def done(self, step: Step, stage: str) -> Entry | None:
        """What the journal says of a finished step, or None."""
        return self.journal.find(step, stage)

    def record(self, step: Step, stage: str, **figures: Any) -> None:
        """Write a finished step into the journal, once, and let all processes go on together."""
        state = PartialState()
        if state.is_main_process:
            where = {"device": device_name(state.device), "processes": state.num_processes}
            self.journal.append(step, stage, **figures, **(where if "seconds" in figures else {}))
        state.wait_for_everyone()


def stages_with_model(run: Run) -> list[Stage]:
    """The start, the iterations, and the baseline arms, as far as their models are there."""
    return [
        stage
        for stage in run.directory.stages()
        if (stage.is_start and run.model is not None) or any(run.directory.model(stage).glob("*.safetensors"))
    ]


def find_stage(run: Run, name: str) -> Stage:
    """The stage that a name means.

    Args:
        run: the run.
        name: of a stage, or `best`.

    Raises:
        RunDirectoryError: there is none, or its model is not there, or `best.json` is damaged.
    """
    known = stages_with_model(run)
    stage = best_stage(run.directory) if name == BEST else name
    if stage in known:
        return Stage(stage)
    there = f"Stages with a model are {', '.join(known)}." if known else "None has one yet."
    if stage is None:
        raise RunDirectoryError(f"{run.directory.path} has no best iteration yet. {there}")
    # Stages' names are alike; only a slip of the keys is worth a question.
    near = "." if run.directory.stage(stage).exists() else nearest(stage, known, cutoff=0.8)
    raise RunDirectoryError(
        f"The stage {stage!r} of {run.directory.path} has no model{near} It has not been trained yet, or `keep_iterations` "
        f"has let it go. {there}"
    )


def free_memory() -> None:
    """Give back the memory of models that nothing refers to any more."""
    release_memory()


def device_name(device: torch.device) -> str:
    """What a phase was computed on, for those who ask what a run has cost."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def since(started: float) -> float:
    """Seconds since a reading of `time.monotonic()`, to the millisecond."""
    return round(time.monotonic() - started, 3)
