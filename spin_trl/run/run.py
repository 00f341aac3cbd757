"""The state of a run that every phase needs: its settings, its directory, and the settings and models of its iterations."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import release_memory
from datasets import Dataset
from peft import PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..config.dpo_on_top import against_dpo
from ..config.iteration import SPINConfig
from ..config.loop import SelfPlayConfig, iteration_settings
from ..config.sft_first import against_sft
from ..config.start import StartConfig
from ..config.traits import SFT_FIRST
from ..data.arrow import load_saved_rows
from ..data.columns import PREPARED_COLUMNS
from ..data.shares import rows_of_share
from ..data.template.pair_template import PairTemplate
from ..errors import DataError, RunDirectoryError, nearest, noted
from ..evaluation.benchmarks import harness_version
from ..evaluation.scoring import Permission, Scorer, ScorerColumns, columns_of, scorer_of
from ..files import definition_of
from ..models.eos import load_eos_ids
from ..models.policy import load_tokenizer
from ..objectives.registry import check_losses
from .directory import RunDirectory
from .journal import DATA, RETENTION, TEST, Decisions, Entry, Journal, Step
from .objects import best_stage
from .progress import Progress
from .stage import BASE, BEST_SFT, SELF_PLAY, SFT, START, Stage, arm_name

BEST, LAST = "best", "last"
"""Names by which users refer to the best stage so far, and to the last iteration with a model."""

LAUNCHED = "SPIN_TRL_LAUNCHED"
"""Environment variable of phases launched by the loop, which displays their progress and reports their results."""

PLAYS_ON = "SPIN_TRL_PLAYS_ON"
"""Environment variable of phases launched by a loop that plays the next phases, too."""


@dataclass
class Run:
    """A run's settings and directory.

    `progress` holds the progress of the phase that runs in this process; `plays_on` says whether the phase was begun by a
    loop that plays the next phases, too, on this machine.

    Attributes:
        directory: run directory.
        args: settings of an iteration, before per-iteration values are applied.
        play: settings of the loop.
        model: Hub name or folder of the given model, which is θ_0, or with `start: sft` the base that θ_0 is trained from;
            None: θ_0 is built from `start`.
        start: settings for building θ_0.
        peft_config: LoRA configuration of self-play, or None for full fine-tuning.
        sft_peft_config: LoRA configuration of SFT first (`start: sft`), or None for full fine-tuning.
        quantization_config: quantisation of the base model, or None.
        scorer: scorer of generated responses, or None.
        permission: what scorers that the settings name may do; None: what the settings allow, without a judge.
        processing_class: tokenizer; None: the model's own.
        given: the given model in memory, if it was passed as an object, until the run has saved it to `model`.
        sources: names of the data, as given in the settings.
        refused: reasons why the run can't be played, as far as its settings alone show.
        has_pairs: whether there are preference pairs for DPO on top.
    """

    directory: RunDirectory
    args: SPINConfig
    play: SelfPlayConfig
    model: str | None
    start: StartConfig = field(default_factory=StartConfig)
    peft_config: Any = None
    sft_peft_config: Any = None
    quantization_config: BitsAndBytesConfig | None = None
    scorer: Scorer | None = None
    permission: Permission | None = None
    processing_class: PreTrainedTokenizerBase | None = None
    given: PreTrainedModel | PeftModel | None = None
    sources: Mapping[str, Any] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    has_pairs: bool = False

    def __post_init__(self) -> None:
        self.journal = Journal(self.directory.journal)
        self.plays_on = PLAYS_ON in os.environ
        is_told = LAUNCHED in os.environ and PartialState().is_main_process
        self.progress = Progress(file=self.directory.progress if is_told else None)
        names, permission = self.play.scorer, self.permission or permission_of(self.play)
        if self.scorer is None and names is not None:
            self.scorer = noted(self.refused, lambda: scorer_named(names, self.play, permission))
        for_retention = self.play.retain_scorer or []
        self.retain_scorer = (
            noted(self.refused, lambda: scorer_named(for_retention, self.play, permission)) if for_retention else None
        )
        if self.play.retain_tasks:
            noted(self.refused, harness_version)
        noted(self.refused, lambda: check_losses(self.args.losses))
        self.refused += [*self._against_objective(), *against_sft(self.args, self.play), *against_arms(self.play)]
        self.refused += against_dpo(self.args, self.play, has_pairs=self.has_pairs)
        if self.sft_first and self.model is None:
            self.refused.append(
                "`start: sft` trains a given model. Without one, the start is built and trained by `start_*`: leave it out, "
                "or set `model_name_or_path`."
            )

    def _against_objective(self) -> list[str]:
        """Return the conflicts between the settings of an iteration and those of the loop."""
        args, play, found = self.args, self.play, []
        if "beta" in iteration_settings(play, 0) and not args.uses_beta:
            found.append(f"`beta` has no effect with {', '.join(map(repr, args.losses))}. Leave it out.")
        for objective, settings in args.objectives:
            found += objective.against_length(settings, play.num_iterations, play.smoke)
        return found

    @property
    def sft_first(self) -> bool:
        """Whether the run trains its start from the given model with SFT."""
        return self.play.start == SFT_FIRST

    @property
    def makes_start(self) -> bool:
        """Whether the run trains its start, from the given model or from scratch."""
        return self.model is None or self.sft_first

    @property
    def given_stage(self) -> Stage:
        """Stage of the given model: the base, if the start is trained from it, else the start."""
        return given_stage(self.play)

    @property
    def given_model(self) -> str:
        """Hub name or folder of the given model; if there is none, folder of the start."""
        return self.model_of(self.given_stage)

    @property
    def scorer_columns(self) -> ScorerColumns:
        """The columns of the held-out data that the scorer takes."""
        return ScorerColumns() if self.scorer is None else columns_of(self.scorer)

    def model_of(self, stage: str) -> str:
        """Return the Hub name or folder of a stage's model."""
        is_given = stage == self.given_stage and self.model is not None
        return str(self.model) if is_given else str(self.directory.model(stage))

    @property
    def decisions(self) -> Decisions:
        """The gate's decisions so far."""
        return Decisions(self.journal.entries())

    def has_begun(self, iteration: int) -> bool:
        """Return whether an iteration has any results; from then on, the model that it starts from is fixed."""
        stage = Stage.of(iteration)
        made = self.done(Step.GENERATE, stage) or self.done(Step.TRAIN, stage)
        return made is not None or self.directory.generations(stage).exists()

    def iteration_args(self, iteration: int) -> SPINConfig:
        """Return the settings of an iteration, with its per-iteration values and its own seed for the order of the data."""
        args = copy.copy(self.args)
        for name, value in iteration_settings(self.play, iteration).items():
            setattr(args, name, value)
        args.learning_rate *= self.decisions.lr_scale(iteration)
        args.seed = self.args.seed + iteration
        args.output_dir = str(self.directory.training(Stage.of(iteration)))
        args.run_name = f"{self.tracker_name}-{Stage.of(iteration)}"
        args.push_to_hub = False  # the run pushes the models that it accepts; its trainers push nothing
        return args

    @property
    def tracker_name(self) -> str:
        """Prefix of the names of tracker runs: `run_name`, or the name of the run directory."""
        return self.args.run_name or self.directory.path.resolve().name

    @property
    def arms(self) -> list[str]:
        """Names of the baseline arms."""
        return arms_of(self.play)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the run's tokenizer, the same in every phase."""
        if self.processing_class is not None:
            return self.processing_class
        return load_tokenizer(self.model or self.directory.tokenizer(), self.args)

    def template(self) -> PairTemplate:
        """Return the template that tokenises prompts and responses, the same in every phase."""
        return PairTemplate(self.tokenizer(), self.eos_ids(), self.args.template_kwargs)

    @property
    def definition(self) -> int:
        """The definition of digests that the run began with; resuming it uses the same one."""
        return definition_of((self.done(Step.PREPARE, DATA) or {}).get("template"))

    def eos_ids(self) -> list[int]:
        """Return all token ids that end a response according to the files of the start."""
        return load_eos_ids(self.model, self.args, self.tokenizer(), self.definition)

    def rows(self, *, held_out: bool = False) -> Dataset:
        """Load the prepared rows, either to train on or held out.

        Raises:
            DataError: if they have not been prepared or can't be read.
        """
        return self._rows_in(self.directory.held_out_rows if held_out else self.directory.train_rows)

    def measured_rows(self, name: str) -> Dataset:
        """Load the prepared rows of the test or the retention set ([`TEST`], [`RETENTION`]); no rows if there is none.

        Raises:
            DataError: if they can't be read.
        """
        is_there = self.done(Step.PREPARE, name) is not None
        return self._rows_in(self.directory.measured_rows(name)) if is_there else _no_rows()

    def answered_rows(self) -> list[Dataset]:
        """Load all prepared rows whose prompts may be answered: those to train on, held out, and of the other sets.

        Raises:
            DataError: if they can't be read.
        """
        return [self.rows(), self.rows(held_out=True), *map(self.measured_rows, (TEST, RETENTION))]

    def pairs(self) -> Dataset:
        """Load the preference pairs for DPO on top.

        Raises:
            DataError: if they have not been prepared or can't be read.
        """
        return self._rows_in(self.directory.pairs)

    def _rows_in(self, folder: Path) -> Dataset:
        if not folder.is_dir():
            raise DataError(f"{folder} is missing: the run's data has not been prepared. `spin-trl run` prepares it.")
        if not any(folder.glob("*.arrow")):  # `datasets` writes no file for zero rows, and then can't read the folder
            return _no_rows()
        return load_saved_rows(folder)

    def sft_rows(self) -> Dataset:
        """Load the prepared rows that SFT first trains on: those of a share of the prompts (`sft_share`)."""
        return rows_of_share(self.rows(), self.play.sft_share, self.args.seed)

    def self_play_rows(self) -> Dataset:
        """Load the prepared rows of the prompts that self-play uses (`self_play_prompts`)."""
        if not self.sft_first or self.play.self_play_prompts == "all":
            return self.rows()
        is_unseen = self.play.self_play_prompts == "unseen"
        return rows_of_share(self.rows(), self.play.sft_share, self.args.seed, others=is_unseen)

    def done(self, step: Step, stage: str) -> Entry | None:
        """Return the journal's entry on a finished step, or None."""
        return self.journal.find(step, stage)

    def record(self, step: Step, stage: str, **figures: Any) -> None:
        """Record a finished step in the journal, on the main process only, and wait for all processes."""
        state = PartialState()
        if state.is_main_process:
            where = {"device": device_name(state.device), "processes": state.num_processes}
            self.journal.append(step, stage, **figures, **(where if "seconds" in figures else {}))
        state.wait_for_everyone()


def given_stage(play: SelfPlayConfig) -> Stage:
    """Return the stage of the given model in a run with these settings: as [`Run.given_stage`]."""
    return BASE if play.start == SFT_FIRST else START


def arms_of(play: SelfPlayConfig) -> list[str]:
    """Return the names of the baseline arms of a run with these settings: SFT's by its label smoothing, then DFT's."""
    kinds: Sequence[str] = play.baseline or []
    smoothed = [arm_name(value) for value in play.baseline_label_smoothing] if SFT in kinds else []
    return [*smoothed, *(kind for kind in kinds if kind != SFT)]


def against_arms(play: SelfPlayConfig) -> list[str]:
    """Return why a run with these settings can't play one of its baseline arms."""
    if BEST_SFT not in (play.baseline or []) or play.start == SFT_FIRST:
        return []
    return [
        f"`baseline: {BEST_SFT}` trains the base that SFT first started from, so it needs `start: sft`. Without it, the "
        f"given model is the start, and `{SFT}` is that baseline."
    ]


def permission_of(play: SelfPlayConfig) -> Permission:
    """Return what the settings of a loop allow to scorers, without a judge, which needs a run directory."""
    return Permission(play.allow_generated_code, play.allow_unisolated_code)


def scorer_named(names: Sequence[str], play: SelfPlayConfig, permission: Permission | None = None) -> Scorer:
    """Return the scorer of these names, with the rubric of a loop's settings.

    Args:
        names: names of scorers.
        play: settings of the loop.
        permission: what scorers may do; None: what the settings allow.
    """
    return scorer_of(names, permission or permission_of(play), play.criteria)


def _no_rows() -> Dataset:
    return Dataset.from_dict({column: [] for column in PREPARED_COLUMNS})


def stages_with_model(run: Run) -> list[Stage]:
    """Return all stages whose models exist, in the order of [`RunDirectory.stages`]."""
    return [
        stage
        for stage in run.directory.stages()
        if (stage == run.given_stage and run.model is not None)
        or any(run.directory.model(stage).glob("*.safetensors"))
    ]


def find_stage(run: Run, name: str) -> Stage:
    """Find the stage with a given name.

    Args:
        run: run to search.
        name: name of a stage, `best`, or `last` (the start, if no iteration has a model).

    Raises:
        RunDirectoryError: if there is no such stage, its model does not exist, or `best.json` is damaged.
    """
    known = stages_with_model(run)
    stage: str | None = name
    if name == BEST:
        stage = best_stage(run.directory)
    elif name == LAST:
        stage = next((one for one in reversed(known) if one.arm == SELF_PLAY), None)
    if stage in known:
        return Stage(stage)
    there = f"Stages with a model are {', '.join(known)}." if known else "None of the stages has a model yet."
    if stage is None:
        raise RunDirectoryError(f"{run.directory.path} has no {name} iteration yet. {there}")
    # The names of stages are similar, so only likely typos get a suggestion.
    near = "." if run.directory.stage(stage).exists() else nearest(stage, known, cutoff=0.8)
    raise RunDirectoryError(
        f"The stage {stage!r} of {run.directory.path} has no model{near} It has not been trained yet, or `keep_iterations` "
        f"has removed it. {there}"
    )


def free_memory() -> None:
    """Free the memory of models that are no longer referenced."""
    release_memory()


def device_name(device: torch.device) -> str:
    """Return the name of the device that a phase ran on, for the run's costs."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def since(started: float) -> float:
    """Return the seconds since a reading of `time.monotonic()`, rounded to milliseconds."""
    return round(time.monotonic() - started, 3)
