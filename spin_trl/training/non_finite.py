"""A trainer that takes no optimiser step on a non-finite loss or gradient (`on_nan`).

A non-finite loss is detected at its micro-batch, a non-finite gradient in the norm that Trainer computes before every step.
All processes decide the same way. With float16, a step that the gradient scaler skips is only counted, until it skips too
many. Skipped steps are recorded in `state.log_history`, so a resumed training continues the count.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from transformers import Trainer

from ..config.iteration import LOWER_RATE, SKIP_STEP
from ..counts import counted, listed
from ..errors import BrokenWeightsError, DivergedError
from ..models.non_finite import non_finite_in_words

logger = logging.getLogger(__name__)

ROW_NAMES = "rows_of_batch"
"""Key under which a batch carries the names of its rows: (key, iteration, sample) of every pair."""

MOST_SKIPPED = 10
"""Most steps per iteration that `on_nan: skip` skips."""

MOST_SCALER_SKIPS = 20
"""Most consecutive steps that the float16 gradient scaler may skip: at the start it takes about ten to find a scale."""

SMALLEST_SCALE = 1.0
"""Smallest scale of float16 gradients: below it they overflow even without scaling."""

SKIPPED, SCALER_SKIPPED = "skipped_rows", "skipped_by_scaler"
"""Keys that mark the entries of `state.log_history` for skipped steps."""

COUNTS = {SKIPPED: "skipped_steps", SCALER_SKIPPED: "scaler_skipped_steps"}
"""Names under which the number of such steps is logged."""

NAMED_ROWS = 5
"""Most rows that a message names and a log keeps."""

RowName = Sequence[Any]
"""Key, iteration and sample of a pair; in supervised training, only the key."""

_caller_goes_back: ContextVar[bool] = ContextVar("_caller_goes_back", default=False)


@contextlib.contextmanager
def going_back() -> Iterator[None]:
    """Mark the caller as one that goes back itself when a trainer created in this block stops (`on_nan: lower`)."""
    token = _caller_goes_back.set(True)
    try:
        yield
    finally:
        _caller_goes_back.reset(token)


class NonFiniteTrainer(Trainer):
    """transformers' Trainer with the setting `on_nan`; settings without it leave everything to Trainer."""

    _rows_of_step: list[RowName]
    _bad_rows: list[RowName]
    _noted_before: dict[str, int] | None
    """Number of figures collected for the log when the step began, by name."""
    _loss_is_bad = False
    _skips_step = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._begin_step()
        super().__init__(*args, **kwargs)
        if self._on_nan == LOWER_RATE and not _caller_goes_back.get() and self.accelerator.is_main_process:
            logger.warning(
                "`on_nan: lower` needs a run (`SelfPlay`, `spin-trl run`), which goes back with half the learning rate. On "
                "its own, this trainer stops at a loss or gradient that is not finite, as with `on_nan: stop`."
            )

    def _begin_step(self) -> None:
        self._rows_of_step, self._bad_rows, self._loss_is_bad = [], [], False
        self._noted_before = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute Trainer's loss; note a non-finite one with its rows, and raise at once if no other process has a say."""
        rows = inputs.get(ROW_NAMES, [])
        inputs = {name: value for name, value in inputs.items() if name != ROW_NAMES}
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self._on_nan is None or not cast(torch.nn.Module, self.model).training:
            return result
        loss = cast(torch.Tensor, result[0] if return_outputs else result)
        self._rows_of_step += rows
        if self._has_bad_figures() or not bool(torch.isfinite(loss.detach()).all()):
            self._loss_is_bad = True
            self._bad_rows += self._suspects(rows)
        # DeepSpeed steps within its backward pass, which must not begin. A single process need not wait for others.
        if self.is_deepspeed_enabled or (self.accelerator.num_processes == 1 and self._on_nan != SKIP_STEP):
            self._decide(None)
        return result

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if self._on_nan is None:
            return norm
        self._decide(norm)
        if self._skips_step:
            self._keep_step_from_being_taken()
        elif self.accelerator.scaler is None:  # a scaler reports it itself
            self._say_skipped(False)
        self._begin_step()
        return None if self._skips_step else norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as Trainer does, and add the number of steps skipped so far, if any."""
        if "loss" in logs:
            history = self.state.log_history
            logs |= {COUNTS[kind]: float(count) for kind in COUNTS if (count := len(steps_left_out(history, kind)))}
            skipped = {entry["step"] for entry in steps_left_out(history, SKIPPED)}
            logged = max((int(entry["step"]) for entry in history if "learning_rate" in entry), default=0)
            if logged < self.state.global_step and skipped.issuperset(range(logged + 1, self.state.global_step + 1)):
                del logs["loss"]  # there was none in these steps: the value is made up
        super().log(logs, *args, **kwargs)

    @property
    def _on_nan(self) -> str | None:
        return getattr(self.args, "on_nan", None)

    def _has_bad_figures(self) -> bool:
        """Return whether this micro-batch must not be trained on although its loss is finite."""
        return False

    def _suspects(self, rows: list[RowName]) -> list[RowName]:
        """Return the rows of a micro-batch that make its loss non-finite."""
        return rows

    def _forget_figures(self) -> None:
        """Discard what the forwards of a skipped step have collected for the log."""

    def _keep_step_from_being_taken(self) -> None:
        """Make the optimiser leave weights and its state alone, and Trainer the schedule, as after a scaler's skip."""
        optimizer = self.optimizer
        assert optimizer is not None
        step = optimizer.step

        def pass_over(closure: Any = None) -> None:
            optimizer.step = step  # type: ignore[method-assign]

        optimizer.step = pass_over  # type: ignore[assignment, method-assign]
        self._say_skipped(True)
        if (scaler := self.accelerator.scaler) is not None:
            scaler.update(scaler.get_scale())  # keep the scale, as if there had been no such gradients

    def _say_skipped(self, skipped: bool) -> None:
        for optimizer in self.accelerator._optimizers:
            optimizer._is_overflow = skipped

    def _decide(self, norm: Any) -> None:
        """Raise or skip the step, the same on all processes, if a loss or the gradient norm is not finite."""
        self._skips_step = False
        norm_is_bad, scaler = norm is not None and not math.isfinite(float(norm)), self.accelerator.scaler
        found = [self._loss_is_bad, norm_is_bad]
        if self.accelerator.num_processes > 1:
            flags = torch.tensor(found, dtype=torch.float32, device=self.accelerator.device)
            found = [bool(flag) for flag in self.accelerator.reduce(flags, "sum")]  # the step's only communication
        if not any(found):
            return
        if scaler is not None and not found[0]:
            # float16 gradients have overflowed, so their scaler skips the step. Nothing else reports it: accelerate does not
            # notice it with a fused optimiser, which is Trainer's default.
            self._note({SCALER_SKIPPED: True})
            scale = scaler.get_scale() * scaler.get_backoff_factor()
            if fault := scaler_fault(self.state.log_history, scale):
                self._refuse(fault, [], None)
            return
        own = self._bad_rows if found[0] else self._rows_of_step
        rows: list[RowName] = [
            tuple(row) for row in (gather_object(own) if self.accelerator.num_processes > 1 else own)
        ]
        what = "the loss is not finite" if found[0] else "the gradient is not finite, though the loss is"
        weights = non_finite_in_words(self.accelerator.unwrap_model(self.model))
        skipped = len(steps_left_out(self.state.log_history, SKIPPED))
        if self._on_nan == SKIP_STEP and weights is None and skipped < MOST_SKIPPED and not self.is_deepspeed_enabled:
            self._leave_out(what, rows, skipped + 1)
            return
        more = f" {counted(skipped, 'step')} of this iteration had been skipped before." if skipped else ""
        self._refuse(what, rows, weights, more)

    def _leave_out(self, what: str, rows: list[RowName], count: int) -> None:
        self._skips_step = True
        step = self.state.global_step + 1
        self._forget_figures()
        self._note({SKIPPED: [list(row) for row in rows[:NAMED_ROWS]]})
        if self.accelerator.is_main_process:
            logger.warning(
                "Step %d is skipped (`on_nan: skip`): %s%s. This is the %s of at most %d.",
                *(step, what, rows_in_words(rows), ordinal(count), MOST_SKIPPED),
            )

    def _note(self, entry: dict[str, Any]) -> None:
        """Record in the log history that the current step is skipped."""
        self.state.log_history.append({"epoch": self.state.epoch, "step": self.state.global_step + 1, **entry})

    def _refuse(self, what: str, rows: list[RowName], weights: str | None, more: str = "") -> None:
        step, rows_of_step = self.state.global_step + 1, len(self._rows_of_step)
        self._begin_step()  # `train()` may be called again
        if weights is not None and step == 1:
            raise BrokenWeightsError(
                f"Training can't start: {what} at its first step, because the weights that it starts from hold NaN or "
                f"infinity, in {weights}. Start from another checkpoint.",
                weights,
            )
        raise DivergedError(
            f"Training has diverged at step {step}: {what}{rows_in_words(rows)}. Nothing of this step was kept.{more} "
            f"Likely cause: {likely_cause(self.args, weights, rows, rows_of_step)} {_ways_out(self.args)}",
            step,
            rows[:NAMED_ROWS],
        )


def steps_left_out(history: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """Return the entries of a log for skipped steps of one kind: `SKIPPED` or `SCALER_SKIPPED`."""
    return [entry for entry in history if kind in entry]


def scaler_fault(history: Sequence[Mapping[str, Any]], scale: float) -> str | None:
    """Return what is wrong, if anything, with the steps that the scaler has skipped, the newest being the current one.

    Args:
        history: entries of the log, including every skipped step.
        scale: factor that losses will be multiplied by at the next step.
    """
    steps = [entry["step"] for entry in steps_left_out(history, SCALER_SKIPPED)]
    in_a_row = next((n for n, step in enumerate(reversed(steps)) if step != steps[-1] - n), len(steps))
    if in_a_row >= MOST_SCALER_SKIPS:
        return f"the gradients of {counted(in_a_row, 'step')} in a row overflow float16"
    if scale < SMALLEST_SCALE:
        return f"the gradients overflow float16 although their scale has fallen to {scale:g}"
    return None


def likely_cause(args: Any, weights: str | None, rows: Sequence[RowName], rows_of_step: int) -> str:
    """Return the likely cause of a non-finite loss or gradient, as a sentence.

    Args:
        args: settings of the trainer.
        weights: description of the parameters that are not finite, or None.
        rows: rows that made the loss non-finite, as far as known.
        rows_of_step: number of pairs that the step has processed so far.
    """
    rate = f"`{_rate_setting(args)}` ({args.learning_rate:g})"
    if weights is not None:
        return f"earlier steps were too large: {rate}. The weights are no longer finite, in {weights}."
    if args.fp16:
        return f"float16 overflowed (`bf16: true` or float32 would not), or {rate} is too large."
    if rows and len(rows) < rows_of_step:
        return f"something in these rows, since the step's other rows are fine; or {rate} is too large."
    limits = "`beta` and `max_grad_norm`" if hasattr(args, "beta") else "`max_grad_norm`"
    return f"{rate} is too large for {limits} ({args.max_grad_norm:g})."


def _rate_setting(args: Any) -> str:
    """Return the name of the setting that the learning rate comes from: supervised training in a run has others."""
    return getattr(args, "rate_setting", "learning_rate")


def _ways_out(args: Any) -> str:
    if args.on_nan == SKIP_STEP:
        return "In a run, `on_nan: lower` goes back with half the learning rate."
    if args.on_nan == LOWER_RATE:
        alone = "" if _caller_goes_back.get() else "This trainer stops when used on its own. "
        return f"{alone}A run goes back with half the learning rate, at most twice per iteration (`on_nan: lower`)."
    return (
        "In a run, `on_nan: lower` goes back with half the learning rate; `on_nan: skip` skips such steps; or set a smaller "
        f"`{_rate_setting(args)}`."
    )


def rows_in_words(rows: Sequence[RowName]) -> str:
    """Return the rows as a phrase to append to a sentence; empty if they are not known."""
    if not rows:
        return ""
    named = [row[0] if len(row) == 1 else _pair_in_words(row) for row in rows]
    return f" for {counted(len(rows), 'row')}: {listed(named, NAMED_ROWS)}"


def _pair_in_words(row: RowName) -> str:
    key, iteration, sample = row
    return f"key {key} (iteration {iteration}, sample {sample})"


def ordinal(number: int) -> str:
    """Return `1st`, `2nd`, `3rd`, `4th` and so on, up to `MOST_SKIPPED`."""
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }"
