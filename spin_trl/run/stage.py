"""Identifiers of a run's models: the base, the start, the iterations, the baseline arms at the same points, and what DPO
made of any of them."""

from __future__ import annotations

import re

SELF_PLAY = "self-play"
"""The arm of the run's own iterations."""

SFT, DFT = "sft", "sft-dft"
"""The arms that are trained only on the real responses: with cross-entropy, and with DFT's loss (arXiv 2508.05629)."""

BEST_SFT = "sft-best"
"""The arm that is trained from the base for as long as SFT first and self-play together, and keeps its best point. It has a
single stage, at the iteration with which the run ends."""

BEFORE_SFT = "base"
"""The arm of the base alone: the given model, if the run trains its start from it with SFT (`start: sft`)."""

DPO = "dpo"
"""The arm of the models that DPO trained further on preference pairs (`then_dpo`). Also the name of that phase."""

_SMOOTHED = f"{SFT}-smoothing-"
_OF_DPO = f"{DPO}/"
_AFTER_DPO = re.compile(rf"{_OF_DPO}(?:start|{BEFORE_SFT}|iteration-\d+)")
_NAME = re.compile(r"(?:baseline/([^/]+)/)?iteration-(\d+)")


_FIRST = {"start": (SELF_PLAY, -1), BEFORE_SFT: (BEFORE_SFT, -2)}
"""Arm and iteration of the stages before the first iteration."""


class Stage(str):
    """A model of a run. The string itself is its name, used by its folder and the journal.

    Args:
        name: name of the stage: `base`, `start`, `iteration-0`, `baseline/sft/iteration-0`, or for DPO on top of one of the
            first three `dpo/base`, `dpo/start` or `dpo/iteration-0`.

    Attributes:
        iteration: iteration, 0-based; -1 for the start, -2 for the base. DPO counts as one more iteration on its origin, and
            on the base as the first.
        arm: arm of the stage: `self-play`, the name of a baseline arm, `base` or `dpo`.

    Raises:
        ValueError: if the name is not that of a stage.
    """

    iteration: int
    arm: str

    def __new__(cls, name: str) -> Stage:
        if _AFTER_DPO.fullmatch(name) is not None:
            stage = super().__new__(cls, name)
            stage.arm, stage.iteration = DPO, max(stage.origin.iteration + 1, 0)
            return stage
        match = _NAME.fullmatch(name)
        if match is None and name not in _FIRST:
            raise ValueError(f"{name!r} is not a stage of a run")
        stage = super().__new__(cls, name)
        stage.arm, stage.iteration = _FIRST[name] if match is None else (match[1] or SELF_PLAY, int(match[2]))
        return stage

    @classmethod
    def of(cls, iteration: int, arm: str = SELF_PLAY) -> Stage:
        """Return the stage of an arm at an iteration (0-based); for every arm, -1 is the start and -2 the base."""
        if iteration < 0:
            return START if iteration == -1 else BASE
        return cls(f"iteration-{iteration}" if arm == SELF_PLAY else f"baseline/{arm}/iteration-{iteration}")

    @classmethod
    def after_dpo(cls, origin: str) -> Stage:
        """Return the stage that DPO makes of the base, the start or an iteration."""
        return cls(f"{_OF_DPO}{origin}")

    @property
    def origin(self) -> Stage:
        """The stage that DPO started from; for other stages, the stage itself."""
        return Stage(self.removeprefix(_OF_DPO))

    @property
    def is_start(self) -> bool:
        """Whether the stage is θ_0, which the first iteration plays against."""
        return self.iteration == -1

    @property
    def is_base(self) -> bool:
        """Whether the stage is the given model, before SFT."""
        return self.arm == BEFORE_SFT

    @property
    def is_of_baseline(self) -> bool:
        """Whether the stage is one of a baseline arm."""
        return self.arm not in (SELF_PLAY, BEFORE_SFT, DPO)

    @property
    def before(self) -> Stage:
        """The stage that this one continues from: the same arm one iteration earlier; for [`BEST_SFT`], the base; for DPO's,
        the one that it started from."""
        if self.arm == DPO:
            return self.origin
        return BASE if self.arm == BEST_SFT else Stage.of(self.iteration - 1, self.arm)

    @property
    def label(self) -> str:
        """The stage's name in words."""
        if self.arm == DPO:
            return f"DPO on {'' if self.origin.iteration >= 0 else 'the '}{self.origin.label}"
        if self.iteration < 0:
            return str(self)
        of_arm = "" if self.arm == SELF_PLAY else f"{arm_in_words(self.arm)}, "
        return f"{of_arm}iteration {self.iteration}"


START, BASE = Stage("start"), Stage(BEFORE_SFT)


def up_to(iteration: int) -> list[Stage]:
    """Return the start and the iterations up to this one (0-based), in order."""
    return [Stage.of(number) for number in range(-1, iteration + 1)]


def arm_name(label_smoothing: float) -> str:
    """Return the name of the baseline arm with this much label smoothing."""
    return SFT if label_smoothing == 0 else f"{_SMOOTHED}{label_smoothing:g}"


def arm_in_words(arm: str) -> str:
    """Return a baseline arm's name in words."""
    if arm.startswith(_SMOOTHED):
        return f"smoothed SFT ({arm.removeprefix(_SMOOTHED)})"
    return {DPO: "DPO", SFT: "plain SFT", DFT: "SFT with DFT's loss", BEST_SFT: "best SFT from the base"}.get(arm, arm)


def smoothing_of_arm(arm: str) -> float:
    """Return the label smoothing of a baseline arm."""
    return float(arm.removeprefix(_SMOOTHED)) if arm.startswith(_SMOOTHED) else 0.0
