"""Settings of one iteration: `SPINConfig` has everything of TRL's `DPOConfig`, generation, and the objectives.

A flat dataclass in TRL's style, so that TRL's own parser reads it from YAML and from the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from trl import DPOConfig

from ..data.bad_rows import BAD_ROWS, MOST, REFUSE_BAD_ROWS
from ..errors import RecipeError
from ..objectives import iris_order
from ..objectives.registry import OURS, OWN_SETTINGS, resolve_settings, use_beta
from . import credentials
from .checks import as_mapping, in_range, one_of

DPO_ONLY: Mapping[str, Any] = MappingProxyType(
    {"ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"}
)
"""Settings of DPO's losses that change what TRL computes with, and what they are when they are off."""

KEEP_OR_DROP = ("keep", "drop")


@dataclass
class SPINConfig(DPOConfig):
    """Settings of one self-play iteration: those of [`~trl.DPOConfig`], and how the opponent answers.

    `loss_type` takes, beside TRL's fifteen, `space` (SPACE, arXiv 2512.07175), `tspin` (T-SPIN, arXiv 2601.08198), `spif`
    (SPIF, arXiv 2602.01357, reconstructed), `iris` (IRIS, arXiv 2604.20933), `simpo` (S-SimPO) and GSIL's losses
    (`gsil_bernoulli`, ..., arXiv 2410.10093). Their settings begin with their names; one that is left out takes the
    published value, and one that belongs to none of the chosen losses is an error. `beta` is SPIN's lambda (arXiv
    2401.01335, eq. 4.7): the larger, the smaller the step. On preference data every default is DPOConfig's.

    Raises:
        RecipeError: a value is out of range or contradicts another one.
    """

    max_new_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens that a generated response may have. None: as many as `max_length` leaves after the prompt."
        },
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "Sampling temperature of the opponent. 0 decodes greedily. The theory of SPIN wants 1."},
    )
    top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling: the mass that is kept. 1 keeps all."})
    top_k: int = field(default=0, metadata={"help": "Sample among the k most likely tokens only. 0 keeps all."})
    num_generations: int = field(
        default=1, metadata={"help": "Generated responses per prompt in each iteration. Each is a pair of its own."}
    )
    generation_batch_size: int = field(
        default=64, metadata={"help": "Prompts that are answered together. A part of what makes a run reproducible."}
    )
    engine: str = field(
        default="transformers", metadata={"help": "What generates: transformers, with the weights in memory."}
    )
    train_on_turn: str = field(
        default="last",
        metadata={
            "help": "Which assistant turns of a conversation are trained on.",
            "choices": ["last", "first", "all"],
        },
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Passed to the chat template of every row, for generation and training alike (JSON)."},
    )
    empty_generations: str = field(
        default="keep",
        metadata={"help": "Pairs whose generated response is empty: keep or drop.", "choices": list(KEEP_OR_DROP)},
    )
    truncated_generations: str = field(
        default="keep",
        metadata={
            "help": "Pairs whose generated response was cut before its end: keep or drop.",
            "choices": list(KEEP_OR_DROP),
        },
    )
    identical_generations: str = field(
        default="keep",
        metadata={
            "help": "Pairs whose generated response is the real one: keep or drop.",
            "choices": list(KEEP_OR_DROP),
        },
    )
    bad_rows: str = field(
        default=REFUSE_BAD_ROWS,
        metadata={
            "help": "Rows that can't be used (an empty answer, an unknown role, ...): refuse the data, or skip them.",
            "choices": list(BAD_ROWS),
        },
    )
    bad_rows_max: float = field(
        default=MOST,
        metadata={
            "help": "With `bad_rows: skip`, how many may be left out: below 1 a share of the rows, else a number."
        },
    )
    check_opponent: bool = field(
        default=True,
        metadata={"help": "Stop if the policy does not start the iteration at its opponent (log-ratios not 0)."},
    )
    shared_prefix: bool | None = field(
        default=None,
        metadata={
            "help": "Run every prompt once for all its responses, without padding between pairs. None: where that is exact, "
            "and say why where it is not. true: or fail. false: never."
        },
    )

    space_mu: float | None = field(
        default=None,
        metadata={"help": "SPACE: generated responses per real one (the noise ratio). None: `num_generations`."},
    )
    tspin_alpha: float | None = field(
        default=None, metadata={"help": "T-SPIN: scale of the log-likelihoods. None: 1.0, as published."}
    )
    tspin_beta: float | None = field(
        default=None,
        metadata={
            "help": "T-SPIN: weight of the historical advantage from iteration 1 on; at iteration 0 it is 0. None: 0.1, as "
            "published."
        },
    )
    spif_reward_scale: float | None = field(
        default=None, metadata={"help": "SPIF (reconstructed): reward per nat of log-ratio. None: 0.1."}
    )
    spif_reward_bound: float | None = field(
        default=None, metadata={"help": "SPIF (reconstructed): largest reward. None: 1.0."}
    )
    iris_schedule: str | None = field(
        default=None,
        metadata={
            "help": "IRIS: how its order goes from iteration to iteration. None: gap.",
            "choices": list(iris_order.SCHEDULES),
        },
    )
    iris_alpha: list[float] | None = field(
        default=None,
        metadata={
            "help": "IRIS: the order, or one for each iteration (iris_schedule: fixed); or the least and the largest order "
            "(gap, geometric). None: as published."
        },
    )
    simpo_beta: float | None = field(
        default=None, metadata={"help": "S-SimPO: scale of the mean log-likelihoods. None: 2.0, as published."}
    )
    simpo_gamma: float | None = field(
        default=None, metadata={"help": "S-SimPO: margin that real must win by. None: 0.5, as published."}
    )
    gsil_scale: float | None = field(
        default=None,
        metadata={
            "help": "GSIL: scale of the log-ratios. None: 0.01 for gsil_bernoulli, as published, 0.1 for the others."
        },
    )
    gsil_shift: float | None = field(
        default=None,
        metadata={
            "help": "GSIL: added to the scaled log-ratios. None: 2.0 for gsil_bernoulli, as published, 0 for the others."
        },
    )

    _VALID_DICT_FIELDS = DPOConfig._VALID_DICT_FIELDS + ["chat_template_kwargs"]

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """`chat_template_kwargs`, as a mapping."""
        return as_mapping("chat_template_kwargs", self.chat_template_kwargs) or {}

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """`model_init_kwargs`, as a mapping."""
        return as_mapping("model_init_kwargs", self.model_init_kwargs) or {}

    def __post_init__(self) -> None:
        self.chat_template_kwargs = as_mapping("chat_template_kwargs", self.chat_template_kwargs)
        super().__post_init__()
        self._check()

    @classmethod
    def completed(cls, args: DPOConfig) -> SPINConfig:
        """The settings of a `DPOConfig`, with the defaults of all that it does not have.

        Raises:
            RecipeError: they contradict each other for self-play.
        """
        # Not by the constructor: it would take values that DPOConfig's own has replaced for a user's.
        completed = cls.__new__(cls)
        for known in fields(cls):
            if known.default is not MISSING:
                setattr(completed, known.name, known.default)
        completed.__dict__.update(args.__dict__)
        completed._check()
        return completed

    def _check(self) -> None:
        options: Any = self.__dict__["model_init_kwargs"]
        if isinstance(options, dict) and "torch_dtype" in options:  # its name in earlier versions of transformers
            others = {name: value for name, value in options.items() if name != "torch_dtype"}
            self.model_init_kwargs = {"dtype": options["torch_dtype"], **others}
        in_range("temperature", self.temperature, 0)
        in_range("top_p", self.top_p, 0, 1, low_open=True)
        in_range("top_k", self.top_k, 0)
        in_range("num_generations", self.num_generations, 1)
        in_range("generation_batch_size", self.generation_batch_size, 1)
        if self.max_new_tokens is not None:
            in_range("max_new_tokens", self.max_new_tokens, 1)
        if self.max_new_tokens is None and self.max_length is None:
            # Only self-play generates; DPOTrainer's `max_length=None` stays valid for preference data.
            self.max_new_tokens = 1024
        one_of("bad_rows", self.bad_rows, BAD_ROWS)
        in_range("bad_rows_max", self.bad_rows_max, 0)
        one_of("train_on_turn", self.train_on_turn, ("last", "first", "all"))
        for name in ("empty_generations", "truncated_generations", "identical_generations"):
            one_of(name, getattr(self, name), KEEP_OR_DROP)
        self._check_objectives()

    def to_dict(self) -> dict[str, Any]:
        """The settings as trackers get them: credentials stand as `***`, inside `model_init_kwargs`, too.

        Trainer's own tokens are `<HUB_TOKEN>` and the like, as transformers writes them.
        """
        plain = super().to_dict()
        hidden: dict[str, Any] = credentials.hidden(plain)
        return hidden | {name: value for name, value in plain.items() if value == f"<{name.upper()}>"}

    def __str__(self) -> str:
        return credentials.hide_named(super().__str__())

    __repr__ = __str__

    @property
    def losses(self) -> list[str]:
        """`loss_type`, as the list that it may be."""
        return [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)

    @property
    def uses_beta(self) -> bool:
        """Whether a chosen loss looks at `beta`."""
        return use_beta(self.losses)

    @property
    def needs_proto(self) -> bool:
        """Whether θ_0's generations are trained on in every iteration."""
        return "tspin" in self.losses and self.tspin_beta != 0

    def objective_values(self) -> dict[str, Any]:
        """The settings of the objectives, for one iteration; the order of IRIS as it is at iteration 0."""
        values = self._objectives()
        if "iris" in self.losses:
            values["iris_alpha"] = self.iris_order(0, 1, None)
        return values

    def iris_order(self, iteration: int, num_iterations: int, gap: float | None) -> float:
        """The order of IRIS at an iteration (see [`iris_order.order`])."""
        return iris_order.order(str(self.order_schedule), self.iris_alpha, iteration, num_iterations, gap)

    @property
    def order_schedule(self) -> str | None:
        """`iris_schedule`, or what it is where it is left out; None without IRIS."""
        return self._objectives().get("iris_schedule")

    def _objectives(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in OWN_SETTINGS}
        return resolve_settings(self.losses, given, self.num_generations)

    def _check_objectives(self) -> None:
        """Every setting belongs to a chosen loss. Those that are left out stay so: what they are depends on others."""
        if isinstance(self.iris_alpha, int | float | str):
            self.iris_alpha = [self.iris_alpha]
        for name, value in self._objectives().items():
            if getattr(self, name) is not None:
                setattr(self, name, value)  # text from a command line has become a number
        ours = [loss for loss in self.losses if loss in OURS]
        meaningless = dict(DPO_ONLY)
        if not self.uses_beta:
            meaningless |= {"beta": DPOConfig.beta, "label_smoothing": DPOConfig.label_smoothing}
        for setting, off in meaningless.items():
            if ours and getattr(self, setting) != off:
                raise RecipeError(
                    f"`{setting}` changes DPO's losses and has no meaning for {', '.join(map(repr, ours))}. "
                    f"Leave it out, or choose another `loss_type`."
                )
        noisy = not self.disable_dropout or self.neftune_noise_alpha
        if "iris" in ours and self.gradient_accumulation_steps > 1 and noisy:
            raise RecipeError(
                "`iris` weighs the pairs of all accumulated micro-batches in a pass before their gradients; with dropout "
                "or NEFTune's noise that would be another model. Leave `disable_dropout` on and `neftune_noise_alpha` out, "
                "or `gradient_accumulation_steps` at 1."
            )
