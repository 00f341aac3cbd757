"""A trainer that also accepts datasets of human responses: it prepares them and pairs them with the opponent's answers.

Given pairs go through `DPOTrainer`'s own preparation. `SPINTrainer` builds on this and adds its constructor and saving.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import release_memory
from datasets import Dataset
from transformers import BitsAndBytesConfig
from trl.trainer.utils import get_config_model_id

from ..config.iteration import AUTO_BATCH, SPINConfig
from ..config.paths import output_folder
from ..data.bad_rows import BadRows
from ..data.caches import CACHES, note_all
from ..data.columns import as_preference, is_preference, is_prepared, is_sft
from ..data.keys import rows_digest
from ..data.prepare import prepare
from ..data.reading.kept import apart
from ..data.template.pair_template import PairTemplate, eos_token_ids
from ..errors import DataError, GenerationsError, RecipeError, noted, refuse_unplayable
from ..files import DEFINITION, definition_of, json_digest
from ..generation.answer import Asked, engine_for, generate
from ..generation.engine import Sampling
from ..generation.generations import Generations, GenerationSource, read_generations
from ..generation.store import STORE_MANIFEST, GenerationStore
from ..models.adapters import Policy, has_adapter, without_adapter
from ..models.digest import START_ADAPTER, digest
from ..models.eos import add_eos_ids, eos_ids_of
from ..models.policy import load_policy
from ..models.vocabulary import check_tokens, embeddings_of
from ..objectives.registry import proto_in_words
from ..run.stage import START
from . import opponent
from .collator import self_play_collator
from .objective_trainer import ObjectiveTrainer
from .pairs import PairCounts, on_disk, pair
from .start_logps import (
    START_LOGPS,
    ResponseSet,
    StartLogps,
    StartSource,
    score_together,
    scoring_batch,
    sets_of_responses,
    with_start_logps,
)
from .unplayable import of_lengths, positions


class PairsTrainer(ObjectiveTrainer):
    """[`ObjectiveTrainer`] that pairs human responses with the opponent's answers. Arguments are DPOTrainer's.

    Attributes:
        pair_counts: counts of each dataset's generations, by the dataset's name (`train`, `eval`, ...).
        opponent_seconds: seconds spent on the opponent's log-probabilities, if they are computed once.
    """

    pair_counts: dict[str, PairCounts]
    opponent_seconds = 0.0
    _ready = False  # the parent's constructor has finished
    _self_play: bool
    _opponent_is_ours: bool
    _adapter_is_new: bool
    _given: GenerationSource | None
    _given_proto: GenerationSource | None
    _start: StartSource | None
    _start_is_inside = False  # it is the policy's base model, or a second frozen adapter
    _quantization_config: BitsAndBytesConfig | None
    _answers: dict[str, Generations]
    _first_answers: dict[str, Generations]
    _rows_by_name: dict[str, Dataset]

    @property
    def _settings(self) -> SPINConfig:
        """`args` of a trainer that self-plays: an SPINConfig, also if the caller passed TRL's own config."""
        assert isinstance(self.args, SPINConfig)
        return self.args

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        if self._is_given_pairs(dataset):
            if self._self_play and args.opponent_mix:
                raise DataError(
                    "An evaluation dataset (`eval_dataset`) of pairs can't be used with `opponent_mix`: the start only "
                    "scores human and generated responses. Pass human responses, or leave `opponent_mix` out."
                )
            return super()._prepare_dataset(as_preference(apart(dataset)), processing_class, args, dataset_name)
        if not self._ready:
            return dataset  # in the parent's constructor: prepared once there is a model and a generation config
        return self._with_opponent(self._rows(dataset, dataset_name), dataset_name, precompute=False)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self._is_paired(dataset):
            return super()._precompute_ref_logps(dataset, name, batch_size)
        if self.is_fsdp_enabled and not self._terms.reference_free and not has_adapter(self.model):
            # The weights in memory are sharded, so the parent has loaded the iteration's start and frees it after this.
            start = get_config_model_id(self.model.config)
            if self.ref_model is None or not Path(start).is_dir():
                raise RecipeError(
                    f"Under FSDP the opponent is loaded from the iteration's start folder, but the start is {start!r}."
                )
            return self._with_opponent(self._rows(dataset, name), name)
        return dataset

    def _is_given_pairs(self, dataset: Any) -> bool:
        """Return whether DPOTrainer's own path applies: the dataset holds pairs, or the trainer does not self-play."""
        if self._self_play:
            return is_preference(dataset)
        if is_sft(dataset):
            raise DataError(
                "An evaluation dataset (`eval_dataset`) must hold pairs (`prompt`, `chosen`, `rejected`), as "
                "`train_dataset` does."
            )
        return True

    def _is_paired(self, dataset: Any) -> bool:
        """Return whether there is nothing left to answer: the pairs were given or have been made."""
        return self._is_given_pairs(dataset) or {"prompt_ids", "sample"} <= set(dataset.column_names)

    @functools.cached_property
    def pair_template(self) -> PairTemplate:
        """The template that turns prompts and real responses into tokens."""
        return self._template_by(DEFINITION)

    def _template_by(self, definition: int) -> PairTemplate:
        """Return the template with the EOS ids that the given definition of its digest counts."""
        return PairTemplate(self._tokenizer, self._eos_ids[min(definition, 2)], self._settings.template_kwargs)

    @functools.cached_property
    def _eos_ids(self) -> dict[int, list[int]]:
        """Ids that end a response, by digest definition. Version 0.1.0 did not read the model's configuration.

        Trainer overwrites that configuration's EOS with the tokenizer's, so the ids found here are stored with the model.
        """
        every = eos_ids_of(self.model, self._tokenizer)
        by_definition = {1: eos_token_ids(self._tokenizer, self.model.generation_config), 2: every}
        add_eos_ids(self.model, every)
        return by_definition

    def _rows(self, dataset: Any, name: str) -> Any:
        if self._is_paired(dataset):
            return dataset
        args, rows = self._settings, dataset
        if not is_prepared(dataset):  # a run passes prepared rows
            with self.accelerator.main_process_first():
                rows = prepare(
                    dataset,
                    self.pair_template,
                    max_length=args.max_length if args.truncation_mode == "keep_start" else None,
                    turn=args.train_on_turn,
                    num_proc=args.dataset_num_proc,
                    name=name,
                    bad_rows=BadRows(args.bad_rows, args.bad_rows_max),
                    positions=positions(self.model.config),
                )
        found: list[str] = []
        noted(found, lambda: check_tokens(self._tokenizer, embeddings_of(self.model), "the model", [rows]))
        found += of_lengths(self.model.config, args, "the model", [rows], answers=self._given is None)
        refuse_unplayable(found, DataError)
        self._rows_by_name[name] = rows
        return rows

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        names = ["key", "iteration", "sample", "real_ids", *START_LOGPS] if self._self_play else []
        self._signature_columns += [name for name in names if name not in self._signature_columns]

    def _for_each_dataset(self, function: Callable[[Any, str], Any], *, train: bool = True) -> None:
        if train:
            self.train_dataset = function(self.train_dataset, "train")
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {name: function(dataset, name) for name, dataset in self.eval_dataset.items()}
        elif self.eval_dataset is not None:
            self.eval_dataset = function(self.eval_dataset, "eval")

    def _with_opponent(self, rows: Any, name: str, *, precompute: bool = True) -> Any:
        """Return rows with the opponent's responses, and its log-probabilities if they are computed once."""
        if self._is_paired(rows):
            return rows
        generations = self._generations(rows, name)
        prefix = "" if name == "train" else f"{name}/"
        pairs, self.pair_counts[name] = pair(rows, generations, self._settings, prefix)
        proto = self._proto(rows, name)
        self.data_collator = self_play_collator(self.data_collator, generations, prefix, proto)
        with self.accelerator.main_process_first():
            pairs = on_disk(pairs, output_folder(self.args) / "pairs")
        started = time.monotonic()
        if precompute and self.precompute_ref_logps:
            folders = {Path(file["filename"]).parent for file in pairs.cache_files}
            pairs = super()._precompute_ref_logps(pairs, name, scoring_batch(self._settings, name))
            if self.accelerator.is_main_process:
                note_all(cache for folder in folders for cache in folder.glob(CACHES))
        if self._mixes_start:
            pairs = self._with_start(pairs, rows, generations, name, prefix)
            release_memory()  # of a start that was loaded
        self.opponent_seconds += time.monotonic() - started
        return pairs

    @property
    def _mixes_start(self) -> bool:
        """Whether the start is mixed into the opponent, and is another model than the opponent."""
        return self._settings.opponent_mix > 0 and (self._start is not None or self._start_is_inside)

    def _with_start(self, pairs: Dataset, rows: Dataset, generations: Generations, name: str, prefix: str) -> Dataset:
        """Return pairs with the start's log-probabilities."""
        sets = sets_of_responses(rows, generations, self._settings)
        with self._start_logps(name, rows, sets) as logps:
            return with_start_logps(pairs, logps, sets, prefix)

    @contextlib.contextmanager
    def _start_logps(self, name: str, rows: Dataset, sets: Mapping[str, ResponseSet]) -> Iterator[StartLogps]:
        """Give the start's log-probabilities of a dataset's responses, with what it takes to compute those not yet known."""
        start = self._start
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            is_known = isinstance(start, StartLogps) and all(start.knows(one, sets[one]) for one in sets)
            if not is_known:
                raise RecipeError(
                    "Under FSDP and DeepSpeed no whole copy of the start can be loaded to score responses with "
                    "(`opponent_mix`). `spin-trl run` scores them in its generate phase, without these plugins; run the "
                    "same command again if their log-probabilities were lost."
                )
        if isinstance(start, StartLogps):
            yield start
            return
        args, autocast = self._settings, self.accelerator.autocast
        pad_token_id, batch_size = self._tokenizer.pad_token_id, scoring_batch(args, name)
        with self._start_in_memory(rows) as (model, of_weights):

            def score(responses: ResponseSet) -> list[float]:
                return score_together(
                    model, responses, pad_token_id=pad_token_id, batch_size=batch_size, autocast=autocast
                )

            precision = str(self.accelerator.mixed_precision)
            yield StartLogps(output_folder(args) / "start-logps", of_weights, precision, score)

    @contextlib.contextmanager
    def _start_in_memory(self, rows: Dataset) -> Iterator[tuple[Policy, str]]:
        """Give the start's model and the digest of its weights.

        It is the policy, without its adapter or with the start's; or the model that was passed; or one that is loaded here.
        """
        device = self.accelerator.device
        if self._start_is_inside:
            policy = self.accelerator.unwrap_model(self.model)
            was_training = policy.training
            inner: Any = without_adapter(policy)  # torch types all attributes of a module as tensors and modules
            inner._has_fused_head = True  # TRL's constructor has added it
            try:
                with opponent.in_place_of_the_policy(policy.to(device), START_ADAPTER):
                    yield policy, digest(policy, of_start=True)
            finally:
                policy.train(was_training)
            return
        model: Any = self._start
        if isinstance(model, str):
            model = load_policy(model, self._settings, self._quantization_config)
        check_tokens(self._tokenizer, embeddings_of(model), "the start", [rows])
        before = model.device
        # Quantised weights are loaded where they are used, and can't be moved.
        is_movable = not any(getattr(model, f"is_loaded_in_{bits}bit", False) for bits in (4, 8))
        try:
            yield model.to(device) if is_movable else model, digest(model)
        finally:
            if is_movable:
                model.to(before)

    def _generations(self, rows: Dataset, name: str) -> Generations:
        if self._given is None:
            self._answers[name] = Generations.load({0: self._answer(rows, name)})
            return self._answers[name]
        found = read_generations(self._given, lambda store: self._check_manifest(store, rows, name))
        found.check_ids(embeddings_of(self.model))
        return found

    def _proto(self, rows: Dataset, name: str) -> Generations | None:
        """Return θ_0's generations if an objective uses them; None at iteration 0, where they are the opponent's."""
        if not self._terms.needs_proto:
            return None
        if self._given_proto is None:
            return self._first_answers.get(name)
        found = read_generations(self._given_proto, lambda store: self._check_store(store, rows, name))
        found.check_ids(embeddings_of(self.model))
        iterations = {iteration for _, iteration, _ in found}
        if iterations - {0}:
            raise GenerationsError(
                f"`proto` must hold generations of iteration 0, but these are of the iterations {sorted(iterations)}."
            )
        return found

    def _check_manifest(self, store: GenerationStore, rows: Dataset, name: str) -> None:
        """Raise if the generations belong to another model, template or dataset."""
        self._check_store(store, rows, name)
        if self._opponent_is_ours and not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            definition = definition_of(store.manifest()["model"])
            store.check({"model": digest(self.model, adapter_is_new=self._adapter_is_new, definition=definition)})
        manifest = store.manifest()
        is_of_start = manifest["iteration"] == 0 or manifest.get("opponent") == START
        if self._settings.opponent_mix and not (self._mixes_start or is_of_start):
            raise GenerationsError(
                f"`opponent_mix` needs θ_0 from iteration 1 on, and the generations in {store.folder} are of iteration "
                f"{manifest['iteration']}. Pass θ_0 as `start`: its folder, its Hub name, or the model."
            )
        if self._terms.needs_proto and self._given_proto is None and store.manifest()["iteration"] > 0:
            takers, without = proto_in_words(self._settings.losses)
            raise GenerationsError(
                f"{takers} uses θ_0's generations from iteration 1 on, and those in {store.folder} are of iteration "
                f"{store.manifest()['iteration']}. Pass those of iteration 0 as `proto`, or set {without}."
            )

    def _check_store(self, store: GenerationStore, rows: Dataset, name: str) -> None:
        """Raise if the generations belong to another template or training dataset. One store holds those of all datasets."""
        definition = definition_of(store.manifest()["template"])
        store.check({"template": self._template_by(definition).digest(definition)})
        if name == "train":
            store.check({"dataset": rows_digest(rows)})

    def _answer(self, rows: Dataset, name: str) -> GenerationStore:
        """Let the opponent answer the prompts: the policy before its first step, or the frozen adapter.

        The store's name depends on the model and all settings, so an interrupted call's generations are found again.
        """
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise RecipeError(
                "Under FSDP and DeepSpeed the weights in memory are sharded, so generation is a separate launch: run "
                "`spin-trl generate` without them, and pass its folder as `generations`."
            )
        model, args = self.accelerator.unwrap_model(self.model), self._settings
        if args.generation_batch_size == AUTO_BATCH:
            raise RecipeError(
                f"`generation_batch_size: {AUTO_BATCH}` needs a run (`spin-trl run`, `SelfPlay`), which keeps the number "
                "that it computes once. For a trainer alone, set a number."
            )
        sampling, folder = Sampling.from_args(args), output_folder(args) / "generations"
        # Stores of version 0.1.0 are named by the old definition and are found as well.
        for definition in (1, DEFINITION) if _has_store_of(folder, name, 1) else (DEFINITION,):
            asked = Asked.of(model, rows, self.pair_template, definition, is_new=self._adapter_is_new)
            named = {f"{of}_digest": value for of, value in dataclasses.asdict(asked).items()}
            store = GenerationStore(folder / f"{name}-{json_digest([named, dataclasses.asdict(sampling)])}")
            if store.folder.exists():
                break
        with opponent.in_place_of_the_policy(model) if self._opponent_is_ours else contextlib.nullcontext():
            generate(
                engine_for(model.to(self.accelerator.device), rows, store, self.pair_template, args, self.accelerator),
                rows,
                store,
                sampling,
                asked,
                iteration=0,
                disable_progress=bool(args.disable_tqdm),
                description=f"Generating ({name})",
            )
        return store


def _has_store_of(folder: Path, name: str, definition: int) -> bool:
    """Return whether a dataset has a store whose model is named by this definition of digests."""
    for manifest in folder.glob(f"{name}-*/{STORE_MANIFEST}"):
        with contextlib.suppress(GenerationsError):
            if definition_of(GenerationStore(manifest.parent).manifest()["model"]) == definition:
                return True
    return False
