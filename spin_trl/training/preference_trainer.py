"""`PreferenceTrainer`: [`SPINTrainer`] on preference pairs whose reference is the model that training starts from.

That is DPOTrainer with its own tokenisation, losses and metrics, and in addition checkpoints with a manifest, `on_nan`, and
a check at step 0 that policy and reference are the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..config.iteration import SPINConfig
from ..models.adapters import Policy
from .pair_lengths import truncated_lengths
from .trainer import SPINTrainer


class PreferenceTrainer(SPINTrainer):
    """DPO on preference pairs, starting at its own reference.

    The reference is never loaded from the name in a model's configuration. With a new adapter it is the model without it;
    with an adapter that is trained further, a frozen copy of that adapter; and in full fine-tuning, the log-probabilities of
    the policy before the first step (`precompute_ref_log_probs`).

    Args:
        model: model or folder to train. For a new adapter, its base.
        args: settings.
        pairs: preference pairs in one of TRL's formats.
        tokenizer: tokenizer.
        options: further arguments of SPINTrainer.

    Raises:
        OpponentError: in `train()`, at step 0, if the policy does not start at its reference.
    """

    _tag_names = ["trl", "dpo"]
    _name = "DPO"
    _starts_from_stage = True

    def __init__(
        self,
        model: str | Policy,
        args: SPINConfig,
        pairs: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        **options: Any,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=pairs, processing_class=tokenizer, **options)
        _ = self._eos_ids  # read now, and stored with the model: Trainer overwrites them when training begins

    def _check_is_due(self) -> bool:
        return (
            not self._terms.reference_free
            and bool(getattr(self.args, "check_opponent", True))
            and self.args.disable_dropout
            and self.ld_alpha is None
            and self.model.training
            and self.state.global_step == 0
        )

    def tokens(self) -> int:
        """Return the number of unique tokens of all pairs: a prompt, which both responses share, counts once."""

        def of_pair(row: Mapping[str, Any]) -> int:
            lengths = (len(row["prompt_ids"]), len(row["chosen_ids"]), len(row["rejected_ids"]))
            return sum(truncated_lengths(lengths, self.args.max_length, self.args.truncation_mode))

        return sum(map(of_pair, self.train_dataset))
