"""TRL's `DPOTrainer` with further objectives in `loss_type`, without copying any of its loss code.

The parent computes the losses it knows; ours are added to its result, from the log-probabilities that its forwards
returned. `SPINTrainer` builds on this and adds self-play.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast
from unittest import mock

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from ..config.checks import as_mapping
from ..config.iteration import SPINConfig
from ..models.adapters import Policy
from ..models.forward.batch import LAYOUT, PROTO_PREFIX, Forwards, with_labels
from ..models.forward.obstacles import AUXILIARY_LOSS
from ..models.policy import rounds_by_batch
from ..objectives.base import logratios
from ..objectives.objective import LENGTHS, OPPONENT, POLICY, PROTO
from ..objectives.registry import OURS, published
from ..objectives.terms import ObjectiveTerms, Others
from . import opponent
from .collapse import LOGS, Collapse, collapses
from .collator import laid_out, named
from .non_finite import ROW_NAMES, NonFiniteTrainer, RowName
from .whole_checkpoints import WholeCheckpointsTrainer

logger = logging.getLogger(__name__)

OTHERS = "others_in_step"
"""Key under which a micro-batch carries what it needs from the other pairs of its optimiser step."""

Logratios = tuple[torch.Tensor, torch.Tensor]
"""Log-ratios of real and of generated responses, shape `(batch,)` each."""


class ObjectiveTrainer(NonFiniteTrainer, WholeCheckpointsTrainer, DPOTrainer):
    """`DPOTrainer` whose `loss_type` also takes the objectives of [`objectives.registry`]. Arguments are DPOTrainer's."""

    args: DPOConfig
    model: Policy
    loss_types: list[str]
    loss_weights: list[float]
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any
    _both_logps: torch.Tensor | None = None  # of the last micro-batch: the policy's, then the opponent's
    _starts_without_numbers = False
    _real_responses = 0
    _real_tokens: Any = 0
    _has_warned = False
    _signature_columns: list[str]  # type: ignore[assignment]  # Trainer's type is that of its first value, None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.precompute_ref_logps &= not self._terms.reference_free
        weighted = zip(self.loss_types, self.loss_weights, strict=True)
        theirs = [(name, weight) for name, weight in weighted if name not in OURS]
        self.loss_types, self.loss_weights = [name for name, _ in theirs], [weight for _, weight in theirs]
        _ = self._forwards  # raises now if the settings ask for what can't be done

    @functools.cached_property
    def _forwards(self) -> Forwards:
        """The forwards of policy and reference, wrapped before either first runs (perhaps in the parent's constructor)."""
        wanted = getattr(self.args, "shared_prefix", None)
        # The noise of the forward, not of the weights: LLM.int8() computes in float16.
        dtype = torch.float16 if rounds_by_batch(self.model) else self._compute_dtype()
        forwards = Forwards(wanted, self._against_sharing(), dtype)
        if self.args.torch_compile:
            # torch.compile traces the forward, so layouts that change and hooks that come and go would break it.
            forwards.leave_alone()
            return forwards
        forwards.wrap(self.model)
        if self.ref_model is not None:
            forwards.wrap(self.accelerator.unwrap_model(self.ref_model))
        return forwards

    def _against_sharing(self) -> str | None:
        """Return what keeps this trainer from sharing prompts, regardless of the model; None if nothing does."""
        if self.args.torch_compile:
            return "`torch_compile` traces a forward that is the same for every batch"
        if self.args.neftune_noise_alpha:
            return "NEFTune's noise (`neftune_noise_alpha`) would be the same for both responses' prompt"
        if self.aux_loss_enabled:
            # Only the policy computes that loss, but both must run the same way: with equal weights every log-ratio is then
            # exactly 0, instead of the rounding difference between two orders of summation.
            return AUXILIARY_LOSS
        parallelism = self.accelerator.parallelism_config
        if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
            return "context and sequence parallelism cut rows into pieces"
        return None

    def _set_objectives(self, args: Any, train_dataset: Any, eval_dataset: Any) -> Any:
        """Set up our part of the loss; return settings that load no opponent if no loss needs one."""
        losses = [args.loss_type] if isinstance(args.loss_type, str) else list(args.loss_type)
        # TRL's own config has no settings for our objectives, so the published ones apply.
        values = args.objective_values() if isinstance(args, SPINConfig) else published(losses)
        self._terms = ObjectiveTerms(losses, args.loss_weights or [1.0] * len(losses), values)
        streamed = has_streams(train_dataset) or has_streams(eval_dataset)
        if self._terms.reference_free and not streamed:
            args = copy.copy(args)
            args.precompute_ref_log_probs = True  # the parent then loads no reference, and we skip the computation
        return args

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if self._terms.reference_free:
            return dataset
        # A DeepSpeed or FSDP engine made for this pass may move the policy's own weights; they must stay trainable.
        is_sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        was_training = self.model.training
        self.model.eval()
        try:
            with self._laying_out(dataset), torch.no_grad() if is_sharded else torch.inference_mode():
                return super()._precompute_ref_logps(dataset, name, batch_size)
        finally:
            self.model.train(was_training)

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        with self._laying_out(dataset):
            return super()._get_dataloader(dataset, *args, **kwargs)

    def _laying_out(self, dataset: Any) -> contextlib.AbstractContextManager[object]:
        """Make data loaders use a collator that also adds row names and layouts.

        The parent classes take the trainer's collator when they create a loader.
        """
        # The batches of a stream are split between processes.
        if not isinstance(dataset, Dataset):
            return contextlib.nullcontext()
        collator = functools.partial(named, self.data_collator)
        if self._forwards.shares:
            collator = functools.partial(laid_out, collator)
        return mock.patch.object(self, "data_collator", collator)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Compute DPOTrainer's reference log-probabilities over unique tokens, without inputs that only the policy uses."""
        with self._forwards.batch(inputs):
            return super().compute_ref_log_probs(model, _without_ours(inputs))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """Return Trainer's micro-batches for the next optimiser step, each with what it needs from the others."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        if self._terms.couples_pairs and len(batches) > 1:
            everything = others_of_each([self._logratios(batch) for batch in batches], self.accelerator)
            for batch, others in zip(batches, everything, strict=True):
                batch[OTHERS] = others
        return batches, num_items

    def _logratios(self, batch: Any) -> Logratios:
        """Return the log-ratios of a micro-batch's real and generated responses, shape (batch,) each, without gradients."""
        everything = self._prepare_inputs(batch)
        inputs = _without_ours(everything)
        if self.precompute_ref_logps:
            real, generated = inputs.pop("ref_chosen_logps"), inputs.pop("ref_rejected_logps")
        else:
            real, generated = self.compute_ref_log_probs(self.ref_model or self.model, everything)
        policy = cast(PreTrainedModel, self.model)  # TRL's annotation allows no adapter around it, but its code does
        checkpointing = as_mapping("gradient_checkpointing_kwargs", self.args.gradient_checkpointing_kwargs)
        rows = inputs | with_labels(inputs)
        del rows["completion_mask"]
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(policy, checkpointing),
            self.compute_loss_context_manager(),
            self._forwards.batch(everything),
        ):
            logps = self.model_wrapped(**rows, use_cache=False, fused_lm_head=True).log_probs
        policy_real, policy_generated = logps.sum(dim=1).chunk(2)
        return logratios(policy_real, policy_generated, real, generated)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        # Our keys are removed first: the parent passes every key it does not know to the model.
        everything, inputs = inputs, _without_ours(inputs)
        check_is_due = self._check_is_due()
        # A compiled forward is not hooked unless we need its outputs.
        is_watched = self._terms or check_is_due or (self._on_nan is not None and not self.args.torch_compile)
        watched = [self.model, self.ref_model] if is_watched else []
        with (
            self._forwards.batch(everything, *watched) as passing,
            self._without_opponent(inputs) if self._terms.reference_free else contextlib.nullcontext(),
        ):
            result = super()._compute_loss(model, inputs, return_outputs)
        if not watched:
            return result
        mask = inputs["completion_mask"][:, 1:]
        lengths = mask.sum(dim=1)
        policy_logps = passing.log_probs[0][:, -mask.size(1) :].sum(dim=1)
        if "ref_chosen_logps" in inputs:
            opponent_logps = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        else:
            opponent_logps = passing.log_probs[1][:, -mask.size(1) :].sum(dim=1)
        self._both_logps = torch.stack([policy_logps.detach().float(), opponent_logps.float()])
        self._starts_without_numbers = check_is_due and not bool(self._both_logps.isfinite().all())
        if check_is_due and not self._starts_without_numbers:
            checked = policy_logps
            if rounds_by_batch(self.model):
                # Both over the same tokens: in a different batch the same weights may differ by more than one step changes.
                checked = opponent_logps + torch.cat(self._logratios(everything))
            opponent.check_starting_point(checked, opponent_logps, lengths, self._compute_dtype())
        if self.model.training:
            self._real_responses += len(lengths) // 2
            self._real_tokens = self._real_tokens + lengths[: len(lengths) // 2].sum()
        tensors: dict[str, torch.Tensor | None] = {PROTO[0]: passing.third_logps}
        for names, both in ((POLICY, policy_logps), (OPPONENT, opponent_logps), (LENGTHS, lengths)):
            tensors |= dict(zip(names, both.chunk(2), strict=True))
        if not self._terms:
            return result
        more = self._added(tensors, everything.get(OTHERS))
        return (result[0] + more, result[1]) if return_outputs else result + more

    def _without_opponent(self, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[object]:
        """Make the parent compute its metrics against log-probabilities of 0, without running a reference."""
        zeros = torch.zeros(len(inputs["input_ids"]) // 2, device=inputs["input_ids"].device)
        inputs |= {"ref_chosen_logps": zeros, "ref_rejected_logps": zeros}
        return mock.patch.object(self, "precompute_ref_logps", True)

    def _added(self, tensors: dict[str, Any], others: Any) -> torch.Tensor | float:
        """Return what our objectives add to the loss of a micro-batch, and log their figures."""
        if self._terms.couples_pairs and others is None and self.accelerator.num_processes > 1:
            real, generated = logratios(*(tensors[name].detach() for name in POLICY + OPPONENT))
            (others,) = others_of_each([(real, generated)], self.accelerator)
        more, figures = self._terms(tensors, others)
        for name, value in figures.items():
            self._metrics["train" if self.model.training else "eval"][name].append(value)
        return more

    def _has_bad_figures(self) -> bool:
        return self._starts_without_numbers

    def _suspects(self, rows: list[RowName]) -> list[RowName]:
        """Return the pairs that have a non-finite log-probability, or all pairs if none has."""
        if self._both_logps is None or len(rows) * 2 != self._both_logps.size(1):
            return rows
        bad = ~self._both_logps.isfinite().all(dim=0).view(2, -1).all(dim=0)
        return [row for row, is_bad in zip(rows, bad.tolist(), strict=True) if is_bad] or rows

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run Trainer's step. The number of figures before it is noted, so that a skipped step's figures can be dropped."""
        if self._noted_before is None:
            self._noted_before = {name: len(values) for name, values in self._metrics["train"].items()}
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        return loss

    def _forget_figures(self) -> None:
        noted, before = self._metrics["train"], self._noted_before or {}
        for name in [*noted]:
            del noted[name][before.get(name, 0) :]
            if not noted[name]:
                del noted[name]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as TRL does, and warn once if real responses become unlikely while margins rise."""
        super().log(logs, *args, **kwargs)
        found = self.collapses() if self._on_nan is not None and not self._has_warned else []
        if found and self.accelerator.is_main_process:
            self._has_warned = True
            logger.warning("Collapse: %s.", found[-1])

    def collapses(self) -> list[Collapse]:
        """Return where, by its log, this training made real responses unlikely while margins rose."""
        if not self._real_responses or len(self.state.log_history) <= LOGS:
            return []
        return collapses(self.state.log_history, self.beta, float(self._real_tokens) / self._real_responses)

    def _check_is_due(self) -> bool:
        """Return whether the policy must equal its opponent on this batch."""
        return False

    def _compute_dtype(self) -> torch.dtype:
        if self.args.bf16:
            return torch.bfloat16
        return torch.float16 if self.args.fp16 else self.model.dtype


def _without_ours(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch without our own keys, as DPOTrainer expects it."""
    return {
        name: value for name, value in inputs.items() if not name.startswith((OTHERS, LAYOUT, PROTO_PREFIX, ROW_NAMES))
    }


def has_streams(datasets: Any) -> bool:
    """Return whether the parent rejects `precompute_ref_log_probs` for a dataset: for streams, and for images.

    Args:
        datasets: a dataset, several by name, or None.
    """
    every = datasets.values() if isinstance(datasets, dict) else [datasets]
    known = [dataset for dataset in every if dataset is not None]
    return not all(isinstance(d, Dataset) and not {"image", "images"} & set(d.column_names) for d in known)


def others_of_each(batches: Sequence[Logratios], accelerator: Accelerator) -> list[Others]:
    """Return, for every micro-batch of this process, the other pairs of the optimiser step.

    An objective may weight every pair by its share of the whole step, while micro-batches are processed one after the other.
    So a pass without gradients runs first; weights don't change within a step, so its results are exact.

    Args:
        batches: log-ratios of the step's micro-batches, without gradients.
        accelerator: gathers those of the other processes; every process must have the same number.
    """
    ours = torch.stack([torch.cat(of_kind) for of_kind in zip(*batches, strict=True)])
    everyone = accelerator.gather(ours[None])  # shape (processes, 2, pairs of a process)
    found, end = [], 0
    for real, _ in batches:
        start, end = end, end + len(real)
        rest = torch.ones(len(everyone), everyone.size(2), dtype=torch.bool, device=everyone.device)
        rest[accelerator.process_index, start:end] = False
        num_batches = len(batches) * accelerator.num_processes
        found.append(Others(everyone[:, 0][rest], everyone[:, 1][rest], num_batches))
    return found
