"""Settings of one iteration: `SPINConfig` extends TRL's `DPOConfig` with generation and the objectives.

It is a flat dataclass in TRL's style, so TRL's own parser can read it from YAML and the command line.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

from trl import DPOConfig

from ..counts import agreeing
from ..data.bad_rows import BAD_ROWS, MOST, REFUSE_BAD_ROWS
from ..data.template.arguments import wrong_arguments
from ..errors import RecipeError
from ..objectives import registry
from ..objectives.fields import setting
from ..objectives.objective import Objective
from . import credentials
from .bounds import POSSIBLE, TRL_SETTINGS
from .checks import Bounds, Choices, as_mapping, check_fields, check_setting, problem
from .ranks import check_device, check_ranks

KEEP_OR_DROP = ("keep", "drop")

AUTO_BATCH = "auto"
"""Value of `generation_batch_size` for as many responses as fit in the GPU's memory."""

GENERATION_BATCH = 64
"""Default of `generation_batch_size`, and what `auto` is where no GPU's memory decides."""

STOP_ON_NAN, SKIP_STEP, LOWER_RATE = "stop", "skip", "lower"
"""What to do with a step whose loss or gradient is not finite."""


@dataclass
class IterationSettings(DPOConfig):
    """The fields of [`SPINConfig`] that do not belong to an objective."""

    max_new_tokens: Annotated[int | None, Bounds(1)] = setting(
        None,
        "Maximum number of tokens in a generated response. By default, as many as `max_length` leaves after the "
        "prompt.",
    )
    temperature: Annotated[float, Bounds(0.01, also=(0,), why="dividing the logits by less overflows")] = setting(
        1.0, "Sampling temperature of the opponent. 0 decodes greedily; SPIN's theory assumes 1."
    )
    top_p: Annotated[float, Bounds(0, 1, low_open=True)] = setting(
        1.0, "Nucleus sampling: probability mass to sample from. 1 keeps all tokens."
    )
    top_k: Annotated[int, Bounds(0)] = setting(0, "Sample from the k most likely tokens only. 0 keeps all tokens.")
    num_generations: Annotated[int, Bounds(1)] = setting(
        1, "Number of generated responses per prompt in each iteration. Each one is a separate pair."
    )
    generation_batch_size: Annotated[int | str, Bounds(1, words=(AUTO_BATCH,))] = setting(
        GENERATION_BATCH,
        "Number of prompts that are answered together. Changing it changes which responses are sampled. auto: in a run, as "
        "many as fit in the GPU's memory; computed before the run's first responses, and kept from then on.",
    )
    engine: str = setting(
        "transformers",
        "Engine that generates the responses: transformers, with the weights in memory; vllm, with servers that the run "
        "starts while it generates; or server, with servers that exist already (`server_urls`). auto: vllm on a GPU where "
        "`vllm --version` answers and vLLM can generate with the model, else transformers; the run keeps what it has "
        "chosen.",
    )
    train_on_turn: str = setting(
        "last", "Which assistant turns of a conversation to train on.", choices=["last", "first", "all"]
    )
    chat_template_kwargs: dict[str, Any] | str | None = setting(
        None, "Keyword arguments for the chat template (JSON), applied to every row in both generation and training."
    )
    empty_generations: str = setting(
        "keep", "Whether to keep or drop pairs whose generated response is empty.", choices=KEEP_OR_DROP
    )
    truncated_generations: str = setting(
        "keep", "Whether to keep or drop pairs whose generated response is truncated.", choices=KEEP_OR_DROP
    )
    identical_generations: str = setting(
        "keep",
        "Whether to keep or drop pairs whose generated response is identical to the real one.",
        choices=KEEP_OR_DROP,
    )
    bad_rows: str = setting(
        REFUSE_BAD_ROWS,
        "What to do with rows that can't be used (an empty answer, an unknown role, ...): refuse the dataset, or "
        "skip them.",
        choices=BAD_ROWS,
    )
    bad_rows_max: Annotated[float, Bounds(0)] = setting(
        MOST, "Maximum number of rows that `bad_rows: skip` may leave out; a value below 1 is a share of the rows."
    )
    on_nan: str = setting(
        STOP_ON_NAN,
        "What to do when a loss or gradient is not finite. stop: end the run and report the rows and the likely "
        "cause. skip: skip the step, at most 10 times per iteration. lower: in a run, go back to the last "
        "checkpoint and halve the learning rate, at most twice per iteration.",
        choices=(STOP_ON_NAN, SKIP_STEP, LOWER_RATE),
    )
    check_opponent: bool = setting(
        True, "Stop if the policy does not start the iteration at its opponent, i.e. if the log-ratios are not 0."
    )
    opponent_mix: Annotated[float, Bounds(0, 1)] = setting(
        0.0,
        "Weight of the start in the reference of the loss (alpha-SPIN's alpha): its log-probabilities are the opponent's "
        "times 1 - `opponent_mix` plus the start's times `opponent_mix`. 0: the opponent alone. 1: the start alone, while "
        "the opponent still generates.",
    )
    shared_prefix: bool | None = setting(
        None,
        "Run each prompt once for all of its responses, without padding between pairs. By default, this is on "
        "where it is exact; where it is not, the run reports why. true: fail where it is not exact. false: never.",
    )


@dataclass
class SPINConfig(registry.ObjectiveSettings, IterationSettings):
    """Settings of one self-play iteration: those of TRL's `DPOConfig`, and those of generation and the objectives.

    In addition to TRL's fifteen losses, `loss_type` accepts the objectives of `spin_trl/objectives/` (`docs/objectives.md`
    describes them all). Their settings begin with their names; a setting that is left out takes the published value, and a
    setting that belongs to none of the chosen losses is an error. `beta` is SPIN's lambda (arXiv 2401.01335, eq. 4.7): the
    larger, the smaller the step. On preference data, all defaults are those of DPOConfig.

    `on_nan: lower` needs a run (`SelfPlay`, `spin-trl run`) that can go back to a checkpoint; `SPINTrainer` alone stops, as
    with `stop`.

    Args:
        max_new_tokens: Maximum number of tokens in a generated response. By default, as many as `max_length` leaves
            after the prompt.
        temperature: Sampling temperature of the opponent. 0 decodes greedily; SPIN's theory assumes 1.
        top_p: Nucleus sampling: probability mass to sample from. 1 keeps all tokens.
        top_k: Sample from the k most likely tokens only. 0 keeps all tokens.
        num_generations: Number of generated responses per prompt in each iteration. Each one is a separate pair.
        generation_batch_size: Number of prompts that are answered together. Changing it changes which responses are
            sampled. auto: in a run, as many as fit in the GPU's memory; computed before the run's first responses, and
            kept from then on.
        engine: Engine that generates the responses: transformers, with the weights in memory; vllm, with servers that the
            run starts while it generates; or server, with servers that exist already (`server_urls`). auto: vllm on a GPU
            where `vllm --version` answers and vLLM can generate with the model, else transformers; the run keeps what it has
            chosen.
        train_on_turn: Which assistant turns of a conversation to train on.
        chat_template_kwargs: Keyword arguments for the chat template (JSON), applied to every row in both generation and
            training.
        empty_generations: Whether to keep or drop pairs whose generated response is empty.
        truncated_generations: Whether to keep or drop pairs whose generated response is truncated.
        identical_generations: Whether to keep or drop pairs whose generated response is identical to the real one.
        bad_rows: What to do with rows that can't be used (an empty answer, an unknown role, ...): refuse the dataset, or
            skip them.
        bad_rows_max: Maximum number of rows that `bad_rows: skip` may leave out; a value below 1 is a share of the rows.
        on_nan: What to do when a loss or gradient is not finite. stop: end the run and report the rows and the likely
            cause. skip: skip the step, at most 10 times per iteration. lower: in a run, go back to the last checkpoint
            and halve the learning rate, at most twice per iteration.
        check_opponent: Stop if the policy does not start the iteration at its opponent, i.e. if the log-ratios are not
            0.
        opponent_mix: Weight of the start in the reference of the loss (alpha-SPIN's alpha): its log-probabilities are the
            opponent's times 1 - `opponent_mix` plus the start's times `opponent_mix`. 0: the opponent alone. 1: the start
            alone, while the opponent still generates.
        shared_prefix: Run each prompt once for all of its responses, without padding between pairs. By default, this is
            on where it is exact; where it is not, the run reports why. true: fail where it is not exact. false: never.

    Raises:
        RecipeError: if a value is out of range or contradicts another one.

    Example:

    ```python
    args = SPINConfig(output_dir="output", max_new_tokens=256, temperature=1.0, beta=0.1)
    ```
    """

    _VALID_DICT_FIELDS = DPOConfig._VALID_DICT_FIELDS + ["chat_template_kwargs"]

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """`chat_template_kwargs` as a mapping."""
        return as_mapping("chat_template_kwargs", self.chat_template_kwargs) or {}

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """`model_init_kwargs` as a mapping."""
        return as_mapping("model_init_kwargs", self.model_init_kwargs) or {}

    def __post_init__(self) -> None:
        check_ranks()
        check_device()
        self.chat_template_kwargs = as_mapping("chat_template_kwargs", self.chat_template_kwargs)
        self._refuse_impossible()
        super().__post_init__()
        self._check()

    @classmethod
    def completed(cls, args: DPOConfig) -> SPINConfig:
        """Return the settings of a `DPOConfig`, completed with the defaults of the settings that it lacks.

        Raises:
            RecipeError: if they contradict each other in self-play.
        """
        # Bypass the constructor: it would mistake values that DPOConfig's constructor has filled in for the user's.
        completed = cls.__new__(cls)
        for known in fields(cls):
            if known.default is not MISSING:
                setattr(completed, known.name, known.default)
        completed.__dict__.update(args.__dict__)
        completed._refuse_impossible()
        completed._check()
        return completed

    def _refuse_impossible(self) -> None:
        """Raise if a numeric setting of TRL or transformers makes no sense in any run. Our own settings have bounds."""
        for known in fields(DPOConfig):
            value = self.__dict__.get(known.name)
            if known.name in POSSIBLE and isinstance(value, int | float):
                check_setting(known.name, value, POSSIBLE[known.name])
            if isinstance(value, float) and not math.isfinite(value):
                raise RecipeError(f"`{known.name}` is {value}; it must be a finite number.")

    def _check(self) -> None:
        options: Any = self.__dict__["model_init_kwargs"]
        if isinstance(options, dict) and "torch_dtype" in options:  # its name in earlier versions of transformers
            others = {name: value for name, value in options.items() if name != "torch_dtype"}
            self.model_init_kwargs = {"dtype": options["torch_dtype"], **others}
        check_fields(self)
        if (reason := wrong_arguments(self.template_kwargs)) is not None:
            raise RecipeError(reason)
        if self.max_new_tokens is None and self.max_length is None:
            # Only self-play generates, so DPOTrainer's `max_length=None` stays valid for preference data.
            self.max_new_tokens = 1024
        self._check_objectives()

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for trackers, with credentials replaced by `***`, also inside `model_init_kwargs`.

        Trainer's own tokens become `<HUB_TOKEN>` and the like, as in transformers.
        """
        plain = super().to_dict()
        hidden: dict[str, Any] = credentials.hidden(plain)
        return hidden | {name: value for name, value in plain.items() if value == f"<{name.upper()}>"}

    @property
    def answers_at_once(self) -> int:
        """`generation_batch_size` as a number: the default, as long as it is `auto`."""
        size = self.generation_batch_size
        return GENERATION_BATCH if size == AUTO_BATCH else int(size)

    def __str__(self) -> str:
        return credentials.hide_named(super().__str__())

    __repr__ = __str__

    @property
    def losses(self) -> list[str]:
        """`loss_type` as a list."""
        return [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)

    @property
    def uses_beta(self) -> bool:
        """Whether any chosen loss uses `beta`."""
        return registry.use_beta(self.losses)

    @property
    def needs_proto(self) -> bool:
        """Whether θ_0's generations are trained on in every iteration."""
        return any(objective.weighs_proto(vars(own)) for objective, own in self.objectives)

    @property
    def objectives(self) -> list[tuple[Objective[Any], Any]]:
        """The chosen objectives of this package, each with its settings, filled up with the published values."""
        given = {name: getattr(self, name) for name in registry.OWN_SETTINGS}
        return registry.objectives_of(self.losses, given, self.num_generations)

    def objective_values(
        self, iteration: int = 0, num_iterations: int = 1, gap: float | None = None
    ) -> dict[str, Any]:
        """Return the objectives' settings at one iteration. For the arguments, see [`Objective.at`]."""
        return registry.values_at(self.objectives, iteration, num_iterations, gap)

    def _check_objectives(self) -> None:
        """Raise if a setting belongs to no chosen loss. Settings left out stay None: their values depend on others."""
        objectives = self.objectives
        for _, own in objectives:
            given = {name: value for name, value in vars(own).items() if getattr(self, name) is not None}
            self.__dict__.update(given)  # command-line text is now a number, and a single number a list
        ours = [objective.loss_type for objective, _ in objectives]
        for name, off in registry.meaningless(self.losses).items():
            if ours and getattr(self, name) != off:
                raise RecipeError(
                    f"`{name}` modifies DPO's losses and has no effect on {', '.join(map(repr, ours))}. "
                    f"Leave it out, or choose another `loss_type`."
                )
        self._check_mix()
        schedule = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        if self.on_nan == LOWER_RATE and schedule in ("reduce_lr_on_plateau", "greedy"):
            raise RecipeError(
                "`on_nan: lower` can only halve the learning rate of a schedule that depends on the step, and "
                f"`lr_scheduler_type: {schedule}` does not. Change one of the two."
            )
        noisy = not self.disable_dropout or self.neftune_noise_alpha
        coupled = [objective.loss_type for objective, _ in objectives if objective.couples_pairs]
        if coupled and self.gradient_accumulation_steps > 1 and noisy:
            raise RecipeError(
                f"`{coupled[0]}` weights the pairs of all accumulated micro-batches in a separate pass before the one "
                "that computes gradients; with dropout or NEFTune noise, the two passes would see different models. "
                "Leave `disable_dropout` on and `neftune_noise_alpha` unset, or set `gradient_accumulation_steps` to 1."
            )

    def _check_mix(self) -> None:
        """Raise if the start can't be mixed into the opponent's log-probabilities for the chosen losses."""
        without = registry.without_mix(self.losses)
        if self.opponent_mix and without:
            raise RecipeError(
                f"`opponent_mix` is {self.opponent_mix:g}, but {', '.join(f'`{loss}`' for loss in without)} "
                f"{agreeing(len(without), 'does', 'do')} not use the opponent's log-probabilities, into which it would mix "
                "the start's. Leave it out, or choose another `loss_type`."
            )
        if self.opponent_mix and self.ld_alpha is not None:
            raise RecipeError(
                f"`ld_alpha` is {self.ld_alpha:g}, so a response's log-probability depends on the other one of its pair, "
                "but `opponent_mix` scores every response once under the start. Leave out one of the two."
            )

    def out_of_bounds(self) -> list[str]:
        """Return one sentence per setting of TRL and transformers that is out of bounds.

        With `max_steps`, the number of epochs is ignored; `beta` only matters to some losses.
        """
        meaningless = {"beta": not self.uses_beta, "num_train_epochs": self.max_steps >= 0}
        reasons = []
        for name, allowed in TRL_SETTINGS.items():
            value = getattr(self, name, None)
            # Skip enum-like objects and settings that are left out.
            if isinstance(value, str if isinstance(allowed, Choices) else int | float) and not meaningless.get(name):
                reasons.append(problem(name, value, allowed))
        return [reason for reason in reasons if reason is not None]
