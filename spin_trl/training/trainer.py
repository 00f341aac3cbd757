"""`SPINTrainer`: TRL's `DPOTrainer`, extended to take a plain SFT dataset and play one self-play iteration on it.

On preference data it behaves as DPOTrainer does. On an SFT dataset, the model it is given is the opponent (SPIN, arXiv
2401.01335): it answers the prompts, and the policy, starting from the same weights, learns to prefer the human responses.
"""

from __future__ import annotations

import copy
import logging
import math
import textwrap
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers import (
    BitsAndBytesConfig,
    DataCollator,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
)
from transformers.trainer_utils import EvalPrediction
from trl import DPOConfig
from trl.trainer.utils import get_config_model_id, hash_module

from ..config.iteration import SPINConfig
from ..config.paths import is_same_path, output_folder
from ..data.columns import is_sft
from ..errors import DataError, RecipeError, refuse_unplayable
from ..generation.generations import GenerationSource
from ..models.adapters import base_of, has_adapter, is_adapter, output_layer_refusals
from ..models.digest import FROZEN_ADAPTERS, START_ADAPTER
from ..models.lineage import complete_card
from ..models.policy import keep_differentiable, load_policy, load_tokenizer, lost_steps, rounds_by_batch
from ..models.saving import make_savable
from . import arguments, opponent
from .objective_trainer import has_streams
from .pairs_trainer import PairsTrainer
from .start_logps import StartSource
from .unplayable import check_self_play, of_batches, of_configuration
from .whole_checkpoints import newest_checkpoint

logger = logging.getLogger(__name__)


class SPINTrainer(PairsTrainer):
    """Drop-in for TRL's `DPOTrainer` that also plays a self-play iteration on an SFT dataset.

    Takes all of DPOTrainer's arguments, plus the three below. `train_dataset` may hold preference pairs (as in DPOTrainer,
    or with the columns `real` and `generated`) or only human responses (`messages`, or `prompt` and `completion`). In the
    latter case the opponent is `model` in its state at the start of training. Its log-probabilities are computed once,
    before the first step, so full fine-tuning keeps no second model; with PEFT, the opponent is the base model or a frozen
    copy of the adapter; an explicit `ref_model` is used unchanged.

    Args:
        generations: the opponent's responses to an SFT dataset: a folder or store written by a generate phase; stores by
            iteration, the newest being the opponent's; or a dataset with `key` and `ids`. None: `train()` first generates
            them into `args.output_dir`, where a later call finds them.
        proto: the generations of iteration 0, for an objective that uses them (T-SPIN) from iteration 1 on. None: this is
            iteration 0, whose generations are θ_0's own, so the objective runs without them; or `train()` is called
            again, and the generations of its first call are used.
        start: θ_0, for `opponent_mix` from iteration 1 on: its folder, its Hub name, or the model. It scores each response
            once, before training, and a model that was loaded for this is freed. If it has the same base as a PEFT `model`,
            nothing but its adapter is loaded, as a second frozen adapter. None: this is iteration 0, whose opponent is θ_0
            itself, so nothing is mixed; or `train()` is called again with PEFT, and θ_0 is the opponent of its first call.

    Raises:
        DataError: if the dataset can't be used; the message names the row.
        GenerationsError: if the generations belong to another dataset, model or template.
        OpponentError: in `train()`, at step 0, if the policy does not start at its opponent.
    """

    _starts_from_stage = False
    _tag_names = ["trl", "dpo", "spin"]
    _name = "SPIN"
    _paper = {
        "title": "Self-Play Fine-Tuning Converts Weak Language Models to Strong Language Models",
        "id": "2401.01335",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @inproceedings{chen2024selfplay,
                title     = {{Self-Play Fine-Tuning Converts Weak Language Models to Strong Language Models}},
                author    = {Zixiang Chen and Yihe Deng and Huizhuo Yuan and Kaixuan Ji and Quanquan Gu},
                year      = 2024,
                booktitle = {Forty-first International Conference on Machine Learning},
            }"""),
    }

    def __init__(
        self,
        model: str | PreTrainedModel | Any,
        ref_model: PreTrainedModel | None = None,
        args: SPINConfig | DPOConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: arguments.EvalDatasets | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: Any = None,
        generations: GenerationSource | None = None,
        proto: GenerationSource | None = None,
        start: StartSource | None = None,
    ) -> None:
        # Long, since TRL's constructor does everything at once: inputs are set up before the call, results fixed after.
        model = arguments.as_model(model)
        if args is not None and not isinstance(args, DPOConfig):
            args = arguments.as_settings(args)
        rows = arguments.human_responses(train_dataset)
        if rows is not None:
            arguments.check_kinds(processing_class=processing_class, peft_config=peft_config)
            train_dataset, eval_dataset = rows, arguments.as_datasets(eval_dataset)
        else:  # DPOTrainer checks the rest, with its own messages
            train_dataset, eval_dataset = arguments.without_format(train_dataset), arguments.of_pairs(eval_dataset)
        arguments.check_kinds(ref_model=ref_model, quantization_config=quantization_config, callbacks=callbacks)
        arguments.check_kinds(optimizers=optimizers, data_collator=data_collator, compute_metrics=compute_metrics)
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = SPINConfig(f"{name.split('/')[-1]}-SPIN")
        self._self_play = rows is not None
        self._opponent_is_ours = self._self_play and ref_model is None
        self._adapter_is_new = peft_config is not None
        self._given, self._given_proto, self._start = generations, proto, None
        self._quantization_config = quantization_config
        self._answers, self._first_answers, self._rows_by_name, self.pair_counts = {}, {}, {}, {}
        if self._self_play:
            args = copy.copy(args) if isinstance(args, SPINConfig) else SPINConfig.completed(args)
            check_self_play(args, train_dataset, data_collator, peft_config, model, processing_class)
            self._start = arguments.as_start(start, args.opponent_mix)
            if isinstance(model, str) and is_adapter(model):  # TRL would take it for a whole model
                processing_class = processing_class or load_tokenizer(model, args)
                model, quantization_config = load_policy(model, args, quantization_config, trainable=True), None
            # With this set, TRL loads no second model. Nothing can be precomputed for a stream; adapters don't need it,
            # since they are switched at every step.
            adapters = peft_config is not None or has_adapter(model)
            args.precompute_ref_log_probs |= self._opponent_is_ours and not (adapters and has_streams(eval_dataset))
        else:
            given = {"generations": generations, "proto": proto, "start": start}
            given["opponent_mix"] = getattr(args, "opponent_mix", 0.0) or None
            if of_self_play := [name for name, value in given.items() if value is not None]:
                raise DataError(
                    f"These need an SFT dataset: `{'`, `'.join(of_self_play)}`. The columns of `train_dataset` are "
                    f"{getattr(train_dataset, 'column_names', None)}."
                )
        unrounded: dict[str, torch.Tensor] = {}
        if has_adapter(model):
            if ref_model is None:  # TRL adds a frozen copy under a name that an earlier trainer may have used
                opponent.drop_frozen_adapters(model)
            if self._keeps_adapters:  # TRL rounds adapters on quantised weights to bfloat16
                unrounded = opponent.trainable_adapters(model)
        args = self._set_objectives(args, train_dataset, eval_dataset)
        with opponent.initialised_plainly(model):  # otherwise that copy would change the base's weights once more
            super().__init__(
                *(model, ref_model, args, data_collator, train_dataset, eval_dataset, processing_class),
                *(compute_metrics, callbacks, optimizers, quantization_config, peft_config),
            )
        keep_differentiable(self.model)
        make_savable(self.model)
        if has_adapter(self.model):
            refuse_unplayable(output_layer_refusals(self.model))
            if self.args.fp16 or self._keeps_adapters:
                opponent.fit_adapters(self.model, self.args.fp16 or bool(self.args.bf16), unrounded)
            if self.ref_model is None:
                opponent.align_frozen_adapter(self.model)
            # Weights that are sharded from the first step on are never whole, so adapters are switched at every step. The
            # same is done where a row's result depends on its batch, so that the opponent sees the policy's batches.
            at_every_step = self.is_fsdp_enabled or rounds_by_batch(self.model)
            self.precompute_ref_logps &= not (self._opponent_is_ours and at_every_step)
        # TRL's constructor prepares datasets and computes log-probabilities before there is a model to generate with. We
        # override both methods; until now they let human responses pass through unchanged.
        self._ready = True
        if self._self_play:
            self._find_start()
            self._prepare_iteration()

    def _find_start(self) -> None:
        """Note whether θ_0 is the policy without its adapter, or with another one on the same base, which is then added."""
        if not isinstance(self._start, str) or not has_adapter(self.model):
            return
        base = self.model.peft_config["default"].base_model_name_or_path
        if is_adapter(self._start):
            self._start_is_inside = is_same_path(base_of(self._start), base, None)
            if self._start_is_inside:
                opponent.add_start(self.model, self._start)
        else:
            self._start_is_inside = is_same_path(self._start, base, None)

    def _prepare_iteration(self) -> None:
        """Prepare the rows now that there is a model, and pair them if the generations were given."""
        name = f"the model {get_config_model_id(self.model.config)!r}"
        rows = len(self.train_dataset) if self._settings.train_on_turn != "all" else math.inf
        batches = of_batches(self._settings, rows, self.accelerator.num_processes)
        refuse_unplayable([*of_configuration(self.model.config, self._settings, name), *batches])
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # sharded weights are trained in float32
        lost = None if is_sharded else lost_steps(self.model, self.args.learning_rate)
        if lost is not None and self.accelerator.is_main_process:
            logger.warning(lost)
        self._for_each_dataset(self._rows)
        if self._given is not None:
            self._for_each_dataset(self._with_opponent)

    # ---- training -----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; the opponent first answers the prompts if it has not done so yet. Arguments and result are Trainer's.

        A further call plays a further iteration, whose opponent is the policy as trained so far. It uses the same settings,
        even for those that `SelfPlay` varies by iteration. `resume_from_checkpoint=True` uses the newest checkpoint that was
        written completely.
        """
        if self._self_play and self._given is None:
            if self.state.global_step > 0 and not resume_from_checkpoint:
                self._next_opponent()
            self._for_each_dataset(self._with_opponent)
        if resume_from_checkpoint is True:
            # A trainer that writes no manifests leaves finding its checkpoints to Trainer's own search.
            found = newest_checkpoint(self.args)
            resume_from_checkpoint = str(found) if found is not None else True
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; the opponent first answers the prompts if it has not done so yet. Arguments and result are DPOTrainer's.

        The dataset may also hold human responses, whose prompts the opponent answers first.

        Raises:
            DataError: if the dataset is of a kind that can't be trained on.
        """
        if not (eval_dataset is None or isinstance(eval_dataset, str)):
            as_kind = arguments.as_datasets if self._self_play else arguments.of_pairs
            eval_dataset = as_kind(eval_dataset)
        elif self._self_play and self._given is None:
            self._for_each_dataset(self._with_opponent, train=False)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict on a dataset that Trainer accepts, or on human responses, whose prompts the opponent answers first.

        Raises:
            DataError: if the dataset is of a kind that can't be trained on.
            RecipeError: if the policy has been trained and its opponent was not kept.
        """
        if not self._self_play:
            return super().predict(test_dataset, *args, **kwargs)
        test_dataset = arguments.as_dataset(test_dataset, "test_dataset", streams=True)
        if is_sft(test_dataset) and not self._is_paired(test_dataset):
            if self._opponent_is_ours and self.state.global_step > 0 and not has_adapter(self.model):
                raise RecipeError(
                    "`predict` can't take human responses after training: full fine-tuning keeps no opponent to answer "
                    "their prompts. Predict before training, or pass the dataset to the constructor as `eval_dataset` "
                    "and predict on `trainer.eval_dataset`."
                )
            test_dataset = self._with_opponent(self._rows(test_dataset, "test"), "test")
        return super().predict(test_dataset, *args, **kwargs)

    @property
    def _keeps_adapters(self) -> bool:
        """Whether adapters keep their precision and name their EOS ids, as in a run. DPOTrainer's do neither."""
        return self._self_play or self._starts_from_stage

    @property
    def is_reference_free(self) -> bool:
        """Whether no loss uses the opponent's log-probabilities."""
        return bool(self._terms.reference_free)

    def _next_opponent(self) -> None:
        """Make the current policy the opponent, because `train()` was called again."""
        self._adapter_is_new = False
        if self._terms.needs_proto and not self._first_answers:
            self._first_answers = dict(self._answers)
        if self._settings.opponent_mix and not self._mixes_start:
            if not has_adapter(self.model):
                raise RecipeError(
                    "`opponent_mix` needs θ_0 from the second iteration on, and full fine-tuning keeps no copy of it. Pass "
                    "it as `start`: its folder, its Hub name, or the model."
                )
            opponent.keep_start(self.model)
            self._start_is_inside = True
        if has_adapter(self.model):
            opponent.freeze_adapter(self.model)
        if self.precompute_ref_logps:
            self._precompute_model_hash = hash_module(self.model)
        self._for_each_dataset(lambda dataset, name: self._rows_by_name.get(name, dataset))

    def _check_is_due(self) -> bool:
        return (
            self._opponent_is_ours
            and not self._terms.reference_free
            and self._settings.check_opponent
            and self._settings.disable_dropout
            and self.ld_alpha is None
            and self.model.training
            and self.state.global_step == 0
        )

    # ---- saving -------------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # With an explicit reference model, an adapter of TRL's name for the frozen one is the user's own.
        ours = FROZEN_ADAPTERS if self.ref_model is None else (START_ADAPTER,) if self._start_is_inside else ()
        frozen_aside = opponent.without_frozen_adapters(self.model, ours)
        with frozen_aside:
            super()._save(output_dir, state_dict)
        if self._keeps_adapters and has_adapter(self.model):
            # An adapter folder has to name the EOS ids itself: its base model may name others.
            config = GenerationConfig(eos_token_id=self._eos_ids[2], pad_token_id=self._tokenizer.pad_token_id)
            config.save_pretrained(output_dir or output_folder(self.args))

    def create_model_card(  # type: ignore[override]  # TRL's has these parameters, which aren't Trainer's
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the model card; if training started from a local folder, name the base model of that folder."""
        super().create_model_card(model_name, dataset_name, tags)
        if self.is_world_process_zero():
            complete_card(output_folder(self.args) / "README.md", get_config_model_id(self.model.config))
