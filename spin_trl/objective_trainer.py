"""TRL's `DPOTrainer` with further objectives in `loss_type`, and without a line of its loss copied.

The parent runs with the losses that it knows; ours are added to its result, from the log-probabilities that its forwards
returned. `SPINTrainer` stands on this, and adds self-play.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from . import opponent
from .branches import PREFIX as BRANCH
from .branches import third_branch
from .config import SPINConfig
from .look_ahead import others_of_each, others_of_this
from .loss_types import LENGTHS, OPPONENT, OURS, POLICY, PROTO, published
from .objectives import logratios
from .terms import ObjectiveTerms

OTHERS = "others_in_step"
"""Key under which a micro-batch carries what it must know of the other pairs of its optimiser step."""


class ObjectiveTrainer(DPOTrainer):
    """`DPOTrainer` whose `loss_type` also takes the objectives of [`loss_types`]. Arguments are DPOTrainer's."""

    loss_types: list[str]
    loss_weights: list[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["args"] = self._set_objectives(kwargs["args"], kwargs.get("train_dataset"), kwargs.get("eval_dataset"))
        super().__init__(*args, **kwargs)
        self.precompute_ref_logps &= not self._terms.reference_free
        weighted = zip(self.loss_types, self.loss_weights, strict=True)
        theirs = [(name, weight) for name, weight in weighted if name not in OURS]
        self.loss_types, self.loss_weights = [name for name, _ in theirs], [weight for _, weight in theirs]

    def _set_objectives(self, args: Any, train_dataset: Any, eval_dataset: Any) -> Any:
        """Our part of the loss, and settings under which no opponent is loaded where no loss looks at it."""
        losses = [args.loss_type] if isinstance(args.loss_type, str) else list(args.loss_type)
        # TRL's own config has no settings for our objectives; they take the published ones.
        values = args.objective_values() if isinstance(args, SPINConfig) else published(losses)
        self._terms = ObjectiveTerms(losses, args.loss_weights or [1.0] * len(losses), values)
        evaluated = eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]
        if self._terms.reference_free and all(map(_can_be_precomputed, [train_dataset, *evaluated])):
            args = copy.copy(args)
            args.precompute_ref_log_probs = True  # the parent then loads no reference; nothing is computed
        return args

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset if self._terms.reference_free else super()._precompute_ref_logps(dataset, name, batch_size)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """Trainer's micro-batches of the next optimiser step; each learns what it must know of the others."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        if self._terms.couples_pairs and len(batches) > 1:
            everything = others_of_each(batches, self._logratios, self.accelerator)
            for batch, others in zip(batches, everything, strict=True):
                batch[OTHERS] = others
        return batches, num_items

    def _logratios(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-ratios of a micro-batch, of real and generated responses, shape (batch,) each, without gradients."""
        inputs = {name: value for name, value in self._prepare_inputs(batch).items() if not name.startswith(BRANCH)}
        if self.precompute_ref_logps:
            real, generated = inputs.pop("ref_chosen_logps"), inputs.pop("ref_rejected_logps")
        else:
            real, generated = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        labels = inputs["input_ids"].masked_fill(inputs.pop("completion_mask") == 0, -100)
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            self.compute_loss_context_manager(),
        ):
            logps = self.model_wrapped(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        policy_real, policy_generated = logps.sum(dim=1).chunk(2)
        return logratios(policy_real, policy_generated, real, generated)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        if not self._terms and not self._check_is_due():
            return super()._compute_loss(model, inputs, return_outputs)
        # Taken out first: the parent hands everything that it does not know to the model.
        beside = {name.removeprefix(BRANCH): value for name, value in inputs.items() if name.startswith(BRANCH)}
        others = inputs.get(OTHERS)
        inputs = {name: value for name, value in inputs.items() if not name.startswith((BRANCH, OTHERS))}
        with (
            third_branch(self.model, beside or None) as proto_logps,
            opponent.recorded_logps(self.model, self.ref_model) as records,
            self._without_opponent(inputs) if self._terms.reference_free else contextlib.nullcontext(),
        ):
            result = super()._compute_loss(model, inputs, return_outputs)
        mask = inputs["completion_mask"][:, 1:]
        lengths = mask.sum(dim=1)
        policy_logps = records[0][:, -mask.size(1) :].sum(dim=1)
        if "ref_chosen_logps" in inputs:
            opponent_logps = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        else:
            opponent_logps = records[1][:, -mask.size(1) :].sum(dim=1)
        if self._check_is_due():
            opponent.check(policy_logps, opponent_logps, lengths, self._compute_dtype())
        tensors: dict[str, torch.Tensor | None] = {PROTO[0]: proto_logps[0] if proto_logps else None}
        for names, both in ((POLICY, policy_logps), (OPPONENT, opponent_logps), (LENGTHS, lengths)):
            tensors |= dict(zip(names, both.chunk(2), strict=True))
        more = self._added(tensors, others)
        return (result[0] + more, result[1]) if return_outputs else result + more

    @contextlib.contextmanager
    def _without_opponent(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Let the parent compute its metrics against log-probabilities of 0, and run no reference."""
        zeros = torch.zeros(len(inputs["input_ids"]) // 2, device=inputs["input_ids"].device)
        inputs |= {"ref_chosen_logps": zeros, "ref_rejected_logps": zeros}
        self.precompute_ref_logps = True
        try:
            yield
        finally:
            self.precompute_ref_logps = False

    def _added(self, tensors: dict[str, Any], others: Any) -> torch.Tensor | float:
        """What our objectives add to the loss of a micro-batch; their figures are logged."""
        if self._terms.couples_pairs and others is None:
            others = others_of_this(*logratios(*(tensors[name] for name in POLICY + OPPONENT)), self.accelerator)
        more, figures = self._terms(tensors, others)
        for name, value in figures.items():
            self._metrics["train" if self.model.training else "eval"][name].append(value)
        return more

    def _check_is_due(self) -> bool:
        """Whether the policy must be equal to its opponent in this batch."""
        return False

    def _compute_dtype(self) -> torch.dtype:
        if self.args.bf16:
            return torch.bfloat16
        return torch.float16 if self.args.fp16 else self.model.dtype


def _can_be_precomputed(dataset: Any) -> bool:
    """Whether the parent takes `precompute_ref_log_probs` for this dataset: not for streams, nor for images."""
    return dataset is None or (isinstance(dataset, Dataset) and not {"image", "images"} & set(dataset.column_names))
