"""`SPINTrainer`: TRL's `DPOTrainer`, which also takes a plain SFT dataset and plays one self-play iteration with it.

On preference data it is DPOTrainer. On an SFT dataset, the model as it was given is the opponent (SPIN, arXiv 2401.01335):
it answers the prompts, and the policy, starting from the same weights, is trained to prefer the human responses.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
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
from ..config.paths import output_folder
from ..data.bad_rows import BadRows
from ..data.columns import as_preference, is_preference, is_prepared, is_sft
from ..data.keys import rows_digest
from ..data.prepare import prepare
from ..data.reading.kept import apart
from ..data.template.pair_template import PairTemplate, eos_token_ids
from ..errors import DataError, GenerationsError, RecipeError, noted, refuse_unplayable
from ..files import definition_of
from ..generation.source import GenerationSource, read_generations, read_proto
from ..generation.store import Generations, GenerationStore
from ..lineage import complete_card
from ..models.adapters import has_adapter, is_adapter, output_layer_refusals
from ..models.digest import digest
from ..models.eos import add_eos_ids, eos_ids_of
from ..models.policy import keep_differentiable, load_policy, load_tokenizer, lost_steps, rounds_by_batch
from ..models.vocabulary import check_tokens, embeddings_of
from ..objectives.registry import proto_in_words
from ..run import checkpoint
from . import opponent
from .arguments import (
    as_dataset,
    as_datasets,
    as_model,
    as_settings,
    check_functions,
    check_kinds,
    human_responses,
    of_pairs,
    without_format,
)
from .collator import self_play_collator
from .objective_trainer import ObjectiveTrainer, has_streams
from .own_generations import answer_in_training
from .pairs import PairCounts, on_disk, pair
from .preconditions import check_self_play
from .unplayable import of_batches, of_lengths, of_positions

logger = logging.getLogger(__name__)

OPPONENT_BATCH_FACTOR = 4
"""How many times as large as in training a batch of the opponent's pass is, where `precompute_ref_batch_size` is left out:
it keeps no activations."""


class SPINTrainer(ObjectiveTrainer):
    """Drop-in for [`~trl.DPOTrainer`] that also plays a self-play iteration on an SFT dataset.

    All arguments are DPOTrainer's, with one more. `train_dataset` may hold preference pairs (as in DPOTrainer, or with
    the columns `real` and `generated`), or human responses alone (`messages`, or `prompt` and `completion`). In the
    latter case the opponent is `model` as it is when training starts. Its log-probabilities are computed once, before the
    first step, and full fine-tuning keeps no second model; with PEFT the opponent is the base model or a frozen copy of
    the adapter; an explicit `ref_model` is used as it is.

    Args:
        generations: the opponent's responses, for an SFT dataset: a folder or store that a generate phase wrote; stores
            by iteration, the newest being the opponent's; or a dataset with `key` and `ids`. None: they are made at the
            start of `train()`, into `args.output_dir`, where a later call finds them.
        proto: what iteration 0 generated, for an objective that takes it (T-SPIN) from iteration 1 on. None: this is
            iteration 0, whose generations are θ_0's own, so that the objective goes without; or `train()` is called
            again, and the first call's generations are taken.

    Raises:
        DataError: the dataset can't be used; the message names the row.
        GenerationsError: the generations belong to another dataset, model or template.
        OpponentError: in `train()`, at step 0: the policy does not start at its opponent.
    """

    _tag_names = ["trl", "dpo", "spin"]
    _name = "SPIN"
    _ready = False  # the parent's constructor has finished
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
        eval_dataset: Dataset
        | IterableDataset
        | DatasetDict
        | IterableDatasetDict
        | dict[str, Dataset | IterableDataset]
        | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: Any = None,
        generations: GenerationSource | None = None,
        proto: GenerationSource | None = None,
    ) -> None:
        model = as_model(model)
        if args is not None and not isinstance(args, DPOConfig):
            args = as_settings(args)
        rows = human_responses(train_dataset)
        if rows is not None:  # else DPOTrainer checks these, with its own messages
            check_kinds(processing_class=processing_class, peft_config=peft_config)
            train_dataset = rows
        else:
            train_dataset = without_format(train_dataset)
        check_kinds(
            ref_model=ref_model, quantization_config=quantization_config, callbacks=callbacks, optimizers=optimizers
        )
        check_functions(data_collator=data_collator, compute_metrics=compute_metrics)
        if rows is not None:
            eval_dataset = as_datasets(eval_dataset, "eval_dataset", streams=True)
        else:
            eval_dataset = of_pairs(eval_dataset)
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = SPINConfig(f"{name.split('/')[-1]}-SPIN")
        self._self_play = rows is not None
        self._opponent_is_ours = self._self_play and ref_model is None
        self._adapter_is_new = peft_config is not None
        self._given = generations
        self._given_proto = proto
        self._answers: dict[str, Generations] = {}
        self._first_answers: dict[str, Generations] = {}
        self._rows_by_name: dict[str, Dataset] = {}
        self.pair_counts: dict[str, PairCounts] = {}
        """What the generations of each dataset are like, by the dataset's name (`train`, `eval`, ...)."""
        self.opponent_seconds = 0.0
        """Seconds spent on the opponent's log-probabilities, where they are computed once."""
        if self._self_play:
            known = check_self_play(args, train_dataset, data_collator, peft_config, model, processing_class)
            args = copy.copy(known)
            if isinstance(model, str) and is_adapter(model):  # which TRL takes for a whole model
                processing_class = processing_class or load_tokenizer(model, args)
                model, quantization_config = load_policy(model, args, quantization_config, trainable=True), None
            # For a stream none can be computed beforehand; adapters can do without, and are switched at every step.
            adapters = peft_config is not None or has_adapter(model)
            args.precompute_ref_log_probs |= self._opponent_is_ours and not (adapters and has_streams(eval_dataset))
        elif generations is not None or proto is not None:
            raise DataError(
                "`generations` and `proto` belong to an SFT dataset, but `train_dataset` is not one: its columns are "
                f"{getattr(train_dataset, 'column_names', None)}."
            )
        unrounded: dict[str, torch.Tensor] = {}
        if has_adapter(model):
            if ref_model is None:
                opponent.drop_frozen_adapter(model)
            if self._self_play:
                unrounded = opponent.trainable_adapters(model)
        with opponent.initialised_plainly(model):
            super().__init__(
                model=model,
                ref_model=ref_model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
            )
        keep_differentiable(self.model)
        if has_adapter(self.model):
            refuse_unplayable(output_layer_refusals(self.model))
            opponent.fit_adapters(
                self.model,
                in_float32=self.args.fp16 or self._self_play,
                align=self.ref_model is None,
                autocast=self.args.fp16 or bool(self.args.bf16),
                unrounded=unrounded,
            )
            # Weights that are sharded from the first step on are whole at no time; adapters are switched at every step. So
            # they are where a row's result depends on its batch: the opponent then sees the policy's batches.
            at_every_step = self.is_fsdp_enabled or rounds_by_batch(self.model)
            self.precompute_ref_logps &= not (self._opponent_is_ours and at_every_step)
        self._ready = True
        if self._self_play:
            name = f"the model {get_config_model_id(self.model.config)!r}"
            rows = len(self.train_dataset) if self._settings.train_on_turn != "all" else math.inf
            processes = self.accelerator.num_processes
            refuse_unplayable(
                [*of_positions(self.model.config, self._settings, name), *of_batches(self._settings, rows, processes)]
            )
            is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # and then trained in float32
            lost = None if is_sharded else lost_steps(self.model, self.args.learning_rate)
            if lost is not None and self.accelerator.is_main_process:
                logger.warning(lost)
            self._for_each_dataset(self._rows)
            if self._given is not None:
                self._for_each_dataset(self._with_opponent)

    @property
    def _settings(self) -> SPINConfig:
        """`args` of a trainer that self-plays, which has completed TRL's own."""
        assert isinstance(self.args, SPINConfig)
        return self.args

    # ---- datasets -----------------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        if self._is_given_pairs(dataset):
            return super()._prepare_dataset(as_preference(apart(dataset)), processing_class, args, dataset_name)
        if not self._ready:
            return dataset  # in the parent's constructor: prepared when there are a model and a generation config
        return self._with_opponent(self._rows(dataset, dataset_name), dataset_name, precompute=False)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self._is_given_pairs(dataset) or "sample" in dataset.column_names:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        if self.is_fsdp_enabled and not self._terms.reference_free and not has_adapter(self.model):
            # The weights in memory are not whole, so the parent has loaded the iteration's start and frees it after this.
            self._check_fsdp_start()
            return self._with_opponent(self._rows(dataset, name), name)
        return dataset

    def _is_given_pairs(self, dataset: Any) -> bool:
        """Whether DPOTrainer's own path applies: the dataset is no SFT dataset, in a trainer that does not self-play."""
        if not self._self_play:
            if is_sft(dataset):
                raise DataError(
                    "An evaluation dataset (`eval_dataset`) must hold pairs (`prompt`, `chosen`, `rejected`), as "
                    "`train_dataset` does."
                )
            return True
        return is_preference(dataset)

    def _check_fsdp_start(self) -> None:
        start = get_config_model_id(self.model.config)
        if self.ref_model is None or not Path(start).is_dir():
            raise RecipeError(
                f"Under FSDP the opponent is loaded from the iteration's start folder, but that is {start!r}."
            )

    @functools.cached_property
    def pair_template(self) -> PairTemplate:
        """What turns prompts and real responses into tokens."""
        return PairTemplate(self._tokenizer, self._eos_ids[2], self._settings.template_kwargs)

    def _template_by(self, definition: int) -> PairTemplate:
        """The template with the EOS ids that a definition of its digest counts."""
        if definition != 1:
            return self.pair_template
        return PairTemplate(self._tokenizer, self._eos_ids[1], self._settings.template_kwargs)

    @functools.cached_property
    def _eos_ids(self) -> dict[int, list[int]]:
        """Ids that end a response, by definition. Version 0.1.0 did not look into the model's configuration.

        Trainer lets the tokenizer's EOS take the place of that configuration's. What is known is kept with the model.
        """
        found = {
            1: eos_token_ids(self._tokenizer, self.model.generation_config),
            2: eos_ids_of(self.model, self._tokenizer),
        }
        add_eos_ids(self.model, found[2])
        return found

    def _rows(self, dataset: Any, name: str) -> Any:
        if self._is_given_pairs(dataset) or {"prompt_ids", "sample"} <= set(dataset.column_names):
            return dataset
        args, rows = self._settings, dataset
        if not is_prepared(dataset):  # a run's rows are
            with self.accelerator.main_process_first():
                rows = prepare(
                    dataset,
                    self.pair_template,
                    max_length=args.max_length if args.truncation_mode == "keep_start" else None,
                    turn=args.train_on_turn,
                    num_proc=args.dataset_num_proc,
                    name=name,
                    bad_rows=BadRows(args.bad_rows, args.bad_rows_max),
                )
        found: list[str] = []
        noted(found, lambda: check_tokens(self._tokenizer, embeddings_of(self.model), "the model", [rows]))
        found += of_lengths(self.model.config, args, "the model", [rows], answers=self._given is None)
        refuse_unplayable(found, DataError)
        self._rows_by_name[name] = rows
        return rows

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        names = ["key", "iteration", "sample", "real_ids"] if self._self_play else []
        self._signature_columns += [name for name in names if name not in self._signature_columns]

    def _for_each_dataset(self, function: Callable[[Any, str], Any]) -> None:
        self.train_dataset = function(self.train_dataset, "train")
        self._for_each_eval_dataset(function)

    def _for_each_eval_dataset(self, function: Callable[[Any, str], Any]) -> None:
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {name: function(dataset, name) for name, dataset in self.eval_dataset.items()}
        elif self.eval_dataset is not None:
            self.eval_dataset = function(self.eval_dataset, "eval")

    # ---- the opponent -------------------------------------------------------------------------------------------------

    def _with_opponent(self, rows: Any, name: str, *, precompute: bool = True) -> Any:
        """Rows with the opponent's responses, and its log-probabilities where they are computed once."""
        if self._is_given_pairs(rows) or "sample" in rows.column_names:
            return rows
        generations = self._generations(rows, name)
        prefix = "" if name == "train" else f"{name}/"
        pairs, self.pair_counts[name] = pair(rows, generations, self._settings, prefix)
        proto = self._proto(rows, name)
        self.data_collator = self_play_collator(self.data_collator, generations, prefix, proto)
        with self.accelerator.main_process_first():
            pairs = on_disk(pairs, output_folder(self.args) / "pairs")
        if not (precompute and self.precompute_ref_logps):
            return pairs
        batch_size = self.args.per_device_train_batch_size if name == "train" else self.args.per_device_eval_batch_size
        started = time.monotonic()
        pairs = super()._precompute_ref_logps(
            pairs, name, self.args.precompute_ref_batch_size or OPPONENT_BATCH_FACTOR * batch_size
        )
        self.opponent_seconds += time.monotonic() - started
        return pairs

    def _generations(self, rows: Dataset, name: str) -> Generations:
        if self._given is None:
            self._answers[name] = Generations.load({0: self._answer(rows, name)})
            return self._answers[name]
        return read_generations(
            self._given, lambda store: self._check_manifest(store, rows if name == "train" else None)
        )

    def _proto(self, rows: Dataset, name: str) -> Generations | None:
        """θ_0's generations, where an objective takes them; None at iteration 0, where they are the opponent's."""
        if not self._terms.needs_proto:
            return None
        if self._given_proto is None:
            return self._first_answers.get(name)
        return read_proto(self._given_proto, lambda store: self._check_store(store, rows if name == "train" else None))

    def _check_manifest(self, store: GenerationStore, rows: Dataset | None) -> None:
        """Refuse generations of another model, template or dataset."""
        self._check_store(store, rows)
        if self._opponent_is_ours and not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            definition = definition_of(store.manifest()["model"])
            store.check({"model": digest(self.model, adapter_is_new=self._adapter_is_new, definition=definition)})
        if self._terms.needs_proto and self._given_proto is None and store.manifest()["iteration"] > 0:
            takers, without = proto_in_words(self._settings.losses)
            raise GenerationsError(
                f"{takers} takes θ_0's generations from iteration 1 on, and those in {store.folder} are of iteration "
                f"{store.manifest()['iteration']}. Pass iteration 0's as `proto`, or set {without}."
            )

    def _check_store(self, store: GenerationStore, rows: Dataset | None) -> None:
        """Refuse generations of another template or dataset."""
        definition = definition_of(store.manifest()["template"])
        store.check({"template": self._template_by(definition).digest(definition)})
        if rows is not None:
            store.check({"dataset": rows_digest(rows)})

    def _answer(self, rows: Dataset, name: str) -> GenerationStore:
        """Let the opponent answer the prompts: the policy until its first step, or the frozen adapter."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise RecipeError(
                "Under FSDP and DeepSpeed the weights in memory aren't whole, so generation is a launch of its own: run "
                "`spin-trl generate` without them, and pass its folder as `generations`."
            )
        return answer_in_training(
            self.accelerator.unwrap_model(self.model),
            rows,
            name,
            args=self._settings,
            template=self.pair_template,
            tokenizer=self._tokenizer,
            accelerator=self.accelerator,
            adapter_is_new=self._adapter_is_new,
            as_opponent=self._opponent_is_ours,
        )

    # ---- training -----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, after the opponent has answered, if it has not yet. Arguments and result are Trainer's.

        Called again, it plays a further iteration, whose opponent is the policy as it is then, with the same settings,
        those included that `SelfPlay` changes by iteration. `resume_from_checkpoint=True` takes the newest checkpoint that
        was written to its end.
        """
        if self._self_play and self._given is None:
            if self.state.global_step > 0 and not resume_from_checkpoint:
                self._next_opponent()
            self._for_each_dataset(self._with_opponent)
        if resume_from_checkpoint is True:
            # Checkpoints of a trainer that writes no manifests are left to Trainer's own search.
            found = checkpoint.latest(output_folder(self.args), self.args.world_size)
            resume_from_checkpoint = str(found) if found is not None else True
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, after the opponent has answered, if it has not yet. Arguments and result are DPOTrainer's.

        A dataset of human responses may be passed, too; the opponent answers its prompts first.

        Raises:
            DataError: the dataset is of another kind than datasets to train on.
        """
        if self._self_play and self._given is None and (eval_dataset is None or isinstance(eval_dataset, str)):
            self._for_each_eval_dataset(self._with_opponent)
        if not isinstance(eval_dataset, str):
            as_kind = (
                functools.partial(as_datasets, name="eval_dataset", streams=True) if self._self_play else of_pairs
            )
            eval_dataset = as_kind(eval_dataset)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict, on what Trainer's takes, or on human responses, whose prompts the opponent answers first.

        Raises:
            DataError: the dataset is of another kind than datasets to train on.
            RecipeError: the policy has been trained, and its opponent is not kept.
        """
        if not self._self_play:
            return super().predict(test_dataset, *args, **kwargs)
        test_dataset = as_dataset(test_dataset, "test_dataset", streams=True)
        if (
            is_sft(test_dataset)
            and "sample" not in test_dataset.column_names
            and not self._is_given_pairs(test_dataset)
        ):
            if self._opponent_is_ours and self.state.global_step > 0 and not has_adapter(self.model):
                raise RecipeError(
                    "Human responses can't be predicted on after training: full fine-tuning keeps no opponent that could "
                    "answer their prompts. Predict before training, or pass the dataset as `eval_dataset` to the "
                    "constructor, and predict on `trainer.eval_dataset`."
                )
            test_dataset = self._with_opponent(self._rows(test_dataset, "test"), "test")
        return super().predict(test_dataset, *args, **kwargs)

    def _next_opponent(self) -> None:
        """The policy as it is now becomes the opponent: `train()` was called again."""
        self._adapter_is_new = False
        if self._terms.needs_proto and not self._first_answers:
            self._first_answers = dict(self._answers)
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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, with its tokenizer, as Trainer does, but without the pickle of Trainer's arguments."""
        with checkpoint.without_arguments(self.args):
            super().save_model(output_dir, _internal_call)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        with checkpoint.without_arguments(self.args):
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        ours = self.ref_model is None  # beside an explicit reference, an adapter of that name is the user's own
        with opponent.without_frozen_adapter(self.model) if ours else contextlib.nullcontext():
            super()._save(output_dir, state_dict)
        if self._self_play and has_adapter(self.model):
            # A folder with an adapter says by itself what ends a response: its base model may name other ids.
            ids = self._eos_ids[2]
            GenerationConfig(eos_token_id=ids, pad_token_id=self._tokenizer.pad_token_id).save_pretrained(
                output_dir or output_folder(self.args)
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.accelerator.is_main_process:
            checkpoint.write_manifest(folder, self.args.world_size)

    def create_model_card(  # type: ignore[override]  # TRL's has these parameters, which aren't Trainer's
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the model card; where training started from a local folder, with that folder's own base model."""
        super().create_model_card(model_name, dataset_name, tags)
        if self.is_world_process_zero():
            complete_card(output_folder(self.args) / "README.md", get_config_model_id(self.model.config))
