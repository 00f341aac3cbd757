"""Settings: `SPINConfig` for one iteration (everything of TRL's `DPOConfig`, and generation), `SelfPlayConfig` for the loop.

Both are flat dataclasses in TRL's style, so that TRL's own parser reads them from YAML and from the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from trl import DPOConfig

from . import schedule
from .checks import as_mapping, in_range, one_of, thresholds
from .errors import RecipeError
from .loss_types import OURS, OWN_SETTINGS, resolve, use_beta

PER_ITERATION = ("learning_rate", "beta", "num_train_epochs", "temperature")
"""Settings that may differ from iteration to iteration: one number, or a list with one entry an iteration."""

DPO_ONLY: Mapping[str, Any] = MappingProxyType(
    {"ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"}
)
"""Settings of DPO's losses that change what TRL computes with, and what they are when they are off."""

KEEP_OR_DROP = ("keep", "drop")

ON_REGRESSION = ("continue", "stop", "fall_back")

SIGNS = ("empty", "truncated", "repetition", "distinct", "short", "long", "odd_characters", "copies")
"""Of degeneration ([`evaluation.degeneration`]), that have thresholds."""


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
            "choices": list(schedule.SCHEDULES),
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

    def __post_init__(self) -> None:
        self.chat_template_kwargs = as_mapping("chat_template_kwargs", self.chat_template_kwargs)
        super().__post_init__()
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
        one_of("train_on_turn", self.train_on_turn, ("last", "first", "all"))
        for name in ("empty_generations", "truncated_generations", "identical_generations"):
            one_of(name, getattr(self, name), KEEP_OR_DROP)
        self._check_objectives()

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
        """The order of IRIS at an iteration (see [`schedule.order`])."""
        return schedule.order(str(self.order_schedule), self.iris_alpha, iteration, num_iterations, gap)

    @property
    def order_schedule(self) -> str | None:
        """`iris_schedule`, or what it is where it is left out; None without IRIS."""
        return self._objectives().get("iris_schedule")

    def _objectives(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in OWN_SETTINGS}
        return resolve(self.losses, given, self.num_generations)

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


@dataclass
class SelfPlayConfig:
    """Settings of the loop: how many iterations, where they are kept, and what they are compared with.

    Raises:
        RecipeError: a value is out of range, or a per-iteration list does not fit `num_iterations`.
    """

    num_iterations: int = field(default=3, metadata={"help": "Iterations to play. Numbered from 0, as in the papers."})
    run_dir: str | None = field(
        default=None, metadata={"help": "Where everything of the run is kept. Default: runs/<name of the recipe>."}
    )
    existing_run: str = field(
        default="continue",
        metadata={
            "help": "If the run directory exists: continue it, fail, or overwrite it.",
            "choices": ["continue", "fail", "overwrite"],
        },
    )
    per_iteration: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Lists of values, one an iteration, for learning_rate, beta, num_train_epochs or temperature. In a "
            "recipe, write the list where the number would stand."
        },
    )
    history: int = field(
        default=0,
        metadata={"help": "Earlier iterations whose generations are mixed into the pairs (SPIN's paper: 1)."},
    )
    lora_opponent: str = field(
        default="adapter",
        metadata={
            "help": "With LoRA, the opponent of a later iteration: a frozen copy of the adapter, or the adapter merged "
            "into the base model.",
            "choices": ["adapter", "merge"],
        },
    )
    held_out_fraction: float = field(
        default=0.02,
        metadata={"help": "Share of the prompts that is kept for evaluation. Ignored with held-out data."},
    )
    held_out_max: int = field(default=1000, metadata={"help": "Most prompts that are kept for evaluation."})
    scorer: list[str] | None = field(
        default=None,
        metadata={
            "help": "Scores a generated response: exact_match, gsm8k, boxed, last_number, choice, json, `regex:PATTERN`, or "
            "`module:function`, called with the prompt, the real and the generated text, returning a number, or named "
            "numbers. One, or several. Means over the held-out prompts are reported, as `score` or `score/NAME`."
        },
    )
    metric_for_best_iteration: str = field(
        default="nll",
        metadata={
            "help": "Held-out figure by which the best iteration is chosen: nll, score (or score/NAME), score_greedy or "
            "win_rate."
        },
    )
    greater_is_better_iteration: bool | None = field(
        default=None, metadata={"help": "Whether more of that figure is better. None: known for the names above."}
    )
    min_improvement: float = field(
        default=0.0,
        metadata={"help": "How much of that figure an iteration must gain on the best so far to take its place."},
    )
    significant_improvement: bool = field(
        default=False,
        metadata={
            "help": "Whether the whole 95 % interval of that gain, prompt by prompt, must lie above `min_improvement`."
        },
    )
    patience: int | None = field(
        default=None, metadata={"help": "Stop after as many iterations in a row without an improvement. None: never."}
    )
    on_regression: str = field(
        default="continue",
        metadata={
            "help": "What happens when an iteration is worse than the best so far, and surely (its whole 95 % interval): "
            "continue from it with a warning, stop, or fall_back: the next iteration starts from the best.",
            "choices": list(ON_REGRESSION),
        },
    )
    fall_back_lr_scale: float = field(
        default=1.0,
        metadata={"help": "What the learning rate is multiplied by each time the run falls back. It stays so."},
    )
    evaluate_greedy: bool = field(
        default=False, metadata={"help": "Also answer the held-out prompts greedily, and score that (score_greedy)."}
    )
    keep_iterations: int | None = field(
        default=None, metadata={"help": "Models that are kept beside the best one, newest first. None keeps all."}
    )
    degeneration_warn: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Thresholds beyond which answers are warned of, by sign (JSON): empty, truncated, repetition, distinct, "
            "short, long, odd_characters, copies. null: never. Signs that are left out keep theirs."
        },
    )
    degeneration_stop: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Thresholds beyond which the run stops after an iteration, by sign (JSON). None: it goes on."
        },
    )
    stop_at_plateau: bool = field(
        default=True,
        metadata={
            "help": "Stop when the policy no longer tells real from generated responses on held-out prompts: a win rate "
            "that is one half, within its 95 % interval. Too few prompts to say so stop nothing."
        },
    )
    baseline: str | None = field(
        default=None,
        metadata={
            "help": "`sft`: also train the start on the real responses alone, for as many gradient steps, and evaluate "
            "it at the same points.",
            "choices": ["sft"],
        },
    )
    baseline_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the baseline. None: the first iteration's."}
    )
    baseline_label_smoothing: list[float] = field(
        default_factory=lambda: [0.0],
        metadata={"help": "Label smoothing of the baseline; each value is an arm of its own."},
    )
    accelerate_config: str | None = field(
        default=None,
        metadata={"help": "Launch every phase as a process of its own with `accelerate launch --config_file` this."},
    )
    smoke: bool = field(default=False, metadata={"help": "Play two iterations on eight rows, to see that all fits."})

    def __post_init__(self) -> None:
        if self.smoke:
            self.num_iterations = min(self.num_iterations, 2)
        if isinstance(self.scorer, str):
            self.scorer = [self.scorer]
        in_range("num_iterations", self.num_iterations, 1)
        in_range("history", self.history, 0)
        in_range("held_out_fraction", self.held_out_fraction, 0, 0.5)
        in_range("held_out_max", self.held_out_max, 1)
        if self.keep_iterations is not None:
            in_range("keep_iterations", self.keep_iterations, 1)
        in_range("min_improvement", self.min_improvement, 0)
        if self.patience is not None:
            in_range("patience", self.patience, 1)
        one_of("on_regression", self.on_regression, ON_REGRESSION)
        in_range("fall_back_lr_scale", self.fall_back_lr_scale, 0, 1, low_open=True)
        one_of("existing_run", self.existing_run, ("continue", "fail", "overwrite"))
        one_of("lora_opponent", self.lora_opponent, ("adapter", "merge"))
        if self.baseline is not None:
            one_of("baseline", self.baseline, ("sft",))
        for value in self.baseline_label_smoothing:
            in_range("baseline_label_smoothing", value, 0, 1)
        for name in ("degeneration_warn", "degeneration_stop"):
            setattr(self, name, thresholds(name, getattr(self, name), SIGNS))
        self.per_iteration = check_per_iteration(as_mapping("per_iteration", self.per_iteration), self)
        if self.greater_is_better_iteration is None:
            self.greater_is_better_iteration = self.metric_for_best_iteration != "nll"
        if self.metric_for_best_iteration.startswith("score") and self.scorer is None:
            raise RecipeError(
                f"`metric_for_best_iteration` is {self.metric_for_best_iteration!r}, which needs a `scorer`."
            )
        if self.significant_improvement and not self.metric_for_best_iteration.startswith(("nll", "score")):
            raise RecipeError(
                f"`significant_improvement` compares prompt by prompt, which {self.metric_for_best_iteration!r} "
                "(`metric_for_best_iteration`) can't be. Choose nll or a score, or leave it out."
            )
        if self.metric_for_best_iteration.startswith("score_greedy"):
            self.evaluate_greedy = True


def check_per_iteration(lists: dict[str, Any] | None, play: SelfPlayConfig) -> dict[str, list[float]]:
    """Per-iteration lists as numbers, each as long as the run, or a clear error.

    Args:
        lists: by setting, the values of all iterations, or None.
        play: the loop's settings; a smoke run takes the first values of longer lists.

    Raises:
        RecipeError: the setting can't differ by iteration, a value is no number, or the length does not fit.
    """
    checked: dict[str, list[float]] = {}
    for name, values in (lists or {}).items():
        if name not in PER_ITERATION:
            raise RecipeError(
                f"`{name}` can't differ by iteration; a list is possible for {', '.join(PER_ITERATION)}."
            )
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise RecipeError(f"`{name}` is {values!r}; expected a list with one number an iteration.")
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            raise RecipeError(f"`{name}` is {list(values)}; expected numbers.") from None
        if play.smoke:
            numbers = numbers[: play.num_iterations]
        if len(numbers) != play.num_iterations:
            raise RecipeError(
                f"`{name}` has {len(numbers)} values for {play.num_iterations} iterations: {numbers}. "
                "Give one number for all iterations, or one for each."
            )
        checked[name] = numbers
    return checked


def iteration_settings(play: SelfPlayConfig, iteration: int) -> dict[str, float]:
    """The settings that `per_iteration` gives iteration `iteration` (0-based), by name."""
    return {
        name: values[iteration] for name, values in (as_mapping("per_iteration", play.per_iteration) or {}).items()
    }


@dataclass
class StartConfig:
    """How θ_0 is made when no checkpoint is given: a small Llama and its tokenizer, trained on the dataset with SFT.

    Meant for demonstrations, tests and studies on a CPU; with `model_name_or_path` none of this is used.
    """

    start_tokenizer: str = field(
        default="bpe",
        metadata={
            "help": "Tokenizer trained on the dataset: byte-level BPE, or characters.",
            "choices": ["bpe", "char"],
        },
    )
    start_vocab_size: int = field(default=4096, metadata={"help": "Size of the BPE vocabulary."})
    start_hidden_size: int = field(default=256, metadata={"help": "Width of the model."})
    start_num_layers: int = field(default=6, metadata={"help": "Layers of the model."})
    start_num_heads: int = field(default=4, metadata={"help": "Attention heads of the model."})
    start_num_epochs: float = field(default=3.0, metadata={"help": "Epochs of SFT that make θ_0."})
    start_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of that SFT."})
    start_batch_size: int = field(default=16, metadata={"help": "Batch size of that SFT."})
    start_label_smoothing: float = field(default=0.0, metadata={"help": "Label smoothing of that SFT."})

    def __post_init__(self) -> None:
        one_of("start_tokenizer", self.start_tokenizer, ("bpe", "char"))
        in_range("start_label_smoothing", self.start_label_smoothing, 0, 1)
        if self.start_hidden_size % self.start_num_heads:
            raise RecipeError(
                f"`start_hidden_size` ({self.start_hidden_size}) must be a multiple of `start_num_heads` "
                f"({self.start_num_heads})."
            )
