"""Find settings that can't be played before anything runs. Each reason is a sentence or two; all go into one message.

Otherwise a run would fail only after the start has been evaluated and the first prompts have been answered. So everything
that an iteration's trainer would refuse is checked beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers import PretrainedConfig, Trainer, get_scheduler, integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.utils import is_liger_kernel_available

from ..config.bounds import OF_RECIPES, TRL_SETTINGS
from ..config.checks import as_mapping, declared, problem
from ..config.iteration import SPINConfig
from ..config.loop import SelfPlayConfig, iteration_settings
from ..config.plain import plain
from ..counts import agreeing, counted
from ..data.columns import refuse_media
from ..errors import DataError, RecipeError, nearest, noted, refuse_unplayable
from ..generation.engine import Sampling, check_engine
from ..models.adapters import adapter_refusals, second_adapter
from ..objectives.registry import check_losses
from .arguments import unnamed
from .collator import DataCollatorForSelfPlay

_NEEDS_MODEL = ("galore", "apollo", "lomo")
"""Optimisers that are built from a model's layers."""


def refusal_of_trainer(error: Exception, peft_config: Any) -> RecipeError:
    """Return the error to raise when an iteration's trainer can't be constructed."""
    # PEFT knows default target layers only for some kinds of models.
    unnamed = "target_modules" in str(error) and getattr(peft_config, "target_modules", "") is None
    advice = " Set `lora_target_modules: all-linear`, or name the layers." if unnamed else ""
    return RecipeError(f"These settings can't be used for training: {error}{advice}")


def check_self_play(
    args: SPINConfig, train_dataset: Any, data_collator: Any, peft_config: Any, model: Any, processing_class: Any
) -> None:
    """Raise unless an iteration can be played with these arguments of a trainer.

    Args:
        args: settings of the iteration.
        train_dataset: human responses.
        data_collator: our collator, or None.
        peft_config: configuration of a new adapter, or None.
        model: model to train, or its name.
        processing_class: its tokenizer, or None.

    Raises:
        RecipeError: if the settings name an unknown loss or can't be played; the message gives all reasons.
        DataError: if the dataset is a stream or holds images, or the collator is not ours.
    """
    if isinstance(train_dataset, IterableDataset):
        raise DataError(
            "`train_dataset` is an IterableDataset, which can't be used for self-play: every prompt is answered before "
            "training. Pass a `Dataset`, or stream pairs (`prompt`, `chosen`, `rejected`)."
        )
    refuse_media(train_dataset)
    if data_collator is not None and not isinstance(data_collator, DataCollatorForSelfPlay):
        raise DataError("With an SFT dataset, `data_collator` must be a DataCollatorForSelfPlay; or leave it out.")
    found: list[str] = []
    noted(found, lambda: check_losses(args.losses))
    found += [*of_settings(args), *adapter_refusals(peft_config)]
    found += [*second_adapter(model, peft_config), *unnamed(model, processing_class)]
    refuse_unplayable(found)


def of_settings(args: SPINConfig) -> list[str]:
    """Return the reasons why no iteration can be played with these settings, in a trainer or in a run."""
    unknown: list[str] = []
    noted(unknown, lambda: check_engine(args.engine))
    return [
        *unknown,
        *_values(args),
        *args.out_of_bounds(),
        *_loading(args.model_kwargs),
        *trackers(args.report_to or []),
        *_optimizer(args),
        *_scheduler(args),
    ]


def of_run(args: SPINConfig, play: SelfPlayConfig, judged: Sequence[str] | None = None) -> Iterator[str]:
    """Yield the reasons, in addition to those of [`of_settings`], why a run of several iterations can't be played.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
        judged: names of the judge's criteria, or None if they are not known.
    """
    found = [] if args.eval_strategy == "no" else [f"eval_strategy: {plain(args.eval_strategy)}"]
    if args.save_strategy == "best":
        found.append("save_strategy: best")
    found += [f"{name}: true" for name in ("eval_on_start", "load_best_model_at_end") if getattr(args, name)]
    if found:
        yield (
            f"`{'`, `'.join(found)}`: an iteration's training has no dataset to evaluate on. A run evaluates every "
            "iteration on held-out prompts and delivers the best one by `metric_for_best_iteration`. Leave "
            f"{agreeing(len(found), 'it', 'them')} out."
        )
    plugins = [name for name in ("deepspeed", "fsdp") if getattr(args, name, None)]
    if plugins:
        yield (
            f"`{'` and `'.join(plugins)}` would shard the model in every phase, but generation needs it whole. Leave "
            f"{agreeing(len(plugins), 'it', 'them')} out and set `accelerate_config` to an accelerate configuration "
            "(`zero3`, or a file) instead: it is used in the phases that support it."
        )
    yield from _unknown_metric(play, judged)
    lists = iteration_settings(play, 0)
    for name in [name for name in ("learning_rate",) if name not in lists]:
        if (reason := problem(name, getattr(args, name), OF_RECIPES[name])) is not None:
            yield reason
    allowed = {**TRL_SETTINGS, **OF_RECIPES, **declared(SPINConfig)}
    for iteration in range(play.num_iterations):
        for name, value in iteration_settings(play, iteration).items():
            if value not in allowed[name]:
                yield f"`{name}` is {value:g} in iteration {iteration}; it must be {allowed[name]}."


_CONFIG_FLAGS = (
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "tie_word_embeddings",
    "return_dict",
    "is_encoder_decoder",
)
"""Flags in a model's configuration whose values transformers does not check."""


def of_configuration(config: PretrainedConfig | None, args: SPINConfig, name: str) -> Iterator[str]:
    """Yield the reasons in a model's configuration why it can't be trained.

    It may be an encoder-decoder, return tuples, or have fewer positions than `max_length`.

    Args:
        config: configuration of the model, or None if it is not known.
        args: settings of an iteration.
        name: name of the model, for the message.
    """
    if getattr(config, "is_encoder_decoder", False):
        yield (
            f"The configuration of {name} has `is_encoder_decoder: true`, but self-play and DPO train a causal language "
            "model, which continues its prompt. If it is one, remove the key from its config.json."
        )
    if not getattr(config, "return_dict", True):
        yield (
            f"The configuration of {name} has `return_dict: false`, so its outputs have no names (as TorchScript needs). "
            "Remove the key from its config.json."
        )
    for flag in _CONFIG_FLAGS:
        if not any(getattr(config, flag, None) is one for one in (None, True, False)):
            yield f"The configuration of {name} has `{flag}: {getattr(config, flag)!r}`; expected true or false."
    limit = positions(config)
    if limit is not None and args.max_length is not None and args.max_length > limit:
        yield (
            f"`max_length` is {args.max_length}, but {name} has {limit} positions (`max_position_embeddings`). Set "
            f"`max_length` to {limit} at most, or set up position scaling in the model's configuration "
            "(`rope_parameters`)."
        )


def of_lengths(
    config: PretrainedConfig | None, args: SPINConfig, name: str, datasets: Iterable[Dataset], *, answers: bool = True
) -> Iterator[str]:
    """Yield a reason if rows are longer than the model has positions and `max_length` does not prevent it.

    Args:
        config: configuration of the model, or None if it is not known.
        args: settings of an iteration.
        name: name of the model, for the message.
        datasets: prepared rows.
        answers: whether the prompts will be answered.
    """
    limit = positions(config)
    if limit is None or (args.max_length is not None and args.truncation_mode == "keep_start"):
        return  # already compared by [`of_configuration`]
    longest, of_prompts = 0, 0
    for rows in datasets:
        for row in rows.select_columns(["prompt_ids", "real_ids"]):
            longest = max(longest, len(row["prompt_ids"]) + len(row["real_ids"]))
            of_prompts = max(of_prompts, len(row["prompt_ids"]))
    has = f"but {name} has {limit} positions (`max_position_embeddings`)"
    of_answer = Sampling.from_args(args).limit(of_prompts)
    if args.max_length is None and longest > limit:
        yield (
            f"The longest row has {longest} tokens, {has}. Set `max_length` to {limit} at most, or set up position scaling "
            "in the model's configuration (`rope_parameters`)."
        )
    elif of_prompts >= limit:
        yield (
            f"The longest prompt has {of_prompts} tokens, {has}. Leave out `truncation_mode`: then rows whose prompts have "
            "`max_length` tokens or more are dropped."
        )
    elif answers and of_prompts + of_answer > limit:
        yield (
            f"The longest prompt has {of_prompts} tokens and its answer may have {of_answer} more (`max_new_tokens`), "
            f"{has}. Set `max_new_tokens` to {limit - of_prompts} at most, or `max_length` to {limit}."
        )


def positions(config: PretrainedConfig | None) -> int | None:
    """Return the number of positions of a model; None if it is not known, or if there is no limit (ALiBi, Mamba)."""
    if config is None:
        return None
    text = config.get_text_config()
    known: Any = getattr(text, "max_position_embeddings", None)
    if not isinstance(known, int) or known <= 0 or getattr(text, "alibi", False):
        return None
    limit: int = known
    scalings = [getattr(text, "rope_parameters", None), getattr(text, "rope_scaling", None)]
    for scaling in [one for one in scalings if isinstance(one, Mapping)]:
        # A model with layers of several kinds may have a scaling for each kind.
        for one in [scaling, *(part for part in scaling.values() if isinstance(part, Mapping))]:
            factor, trained = one.get("factor"), one.get("original_max_position_embeddings") or known
            if isinstance(factor, int | float) and isinstance(trained, int):
                limit = max(limit, int(factor * trained))
    return limit


def of_batches(args: SPINConfig, rows: float, processes: int) -> Iterator[str]:
    """Yield a reason if incomplete batches are dropped and there are fewer pairs than one batch over all processes.

    Args:
        args: settings of an iteration.
        rows: upper bound on the number of responses to train on.
        processes: number of processes that train together.
    """
    batch, pairs = args.per_device_train_batch_size, rows * args.num_generations
    if args.dataloader_drop_last and pairs < batch * processes:
        whole = f"{batch} x {processes} processes" if processes > 1 else f"{batch}"
        yield (
            "`dataloader_drop_last` leaves nothing to train on: there "
            f"{agreeing(pairs, 'is', 'are')} {counted(pairs, 'pair')} at most, fewer than one full batch "
            f"(`per_device_train_batch_size`: {whole}). Leave it out, or make the batch smaller."
        )


def trackers(names: str | Sequence[str]) -> Iterator[str]:
    """Yield a reason for every tracker in `report_to` that does not exist or is not installed."""
    known = [*INTEGRATION_TO_CALLBACK, "all", "none"]
    for name in [names] if isinstance(names, str) else names:
        if name not in known:
            yield f"`report_to` names {name!r}, which is not a known tracker{nearest(str(name), known)}"
        elif not _is_installed(name):
            yield f"`report_to` names {name!r}, which is not installed: install it, or set `report_to: none`."


def _is_installed(tracker: str) -> bool:
    called = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}.get(tracker, tracker)
    is_available = getattr(integrations, f"is_{called}_available", None)
    try:
        return is_available is None or bool(is_available())
    except Exception:  # it is installed, and will report what is wrong when it is created
        return True


def _values(args: SPINConfig) -> Iterator[str]:
    """Yield a reason for every value that leaves nothing to train, or that makes policy and opponent differ at the start."""
    if args.neftune_noise_alpha:
        yield (
            f"`neftune_noise_alpha` ({args.neftune_noise_alpha:g}) adds noise to the policy's inputs but not to its "
            "opponent's, so the policy would not start at its opponent. Leave it out."
        )
    if args.sync_ref_model:
        yield "`sync_ref_model` updates the reference model, but the opponent is frozen during an iteration. Leave it out."
    if args.max_steps == 0:
        yield "`max_steps` is 0: nothing would be trained. Leave it out (-1) to count epochs."
    if args.train_sampling_strategy == "group_by_length":
        yield (
            "`train_sampling_strategy: group_by_length` groups by the length of one text, but a pair has two responses. "
            "Leave it out."
        )
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        yield "`dataloader_persistent_workers` needs `dataloader_num_workers` of 1 or more."
    if args.use_liger_kernel and not is_liger_kernel_available():
        yield "`use_liger_kernel` needs the package liger-kernel, which is not installed."
    if args.activation_offloading and args.device.type == "cpu":
        yield (
            "`activation_offloading` moves activations from GPU to CPU memory, but this run is on the CPU. Leave it out."
        )


def _loading(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a reason for every option of `model_init_kwargs` with which no model could be loaded."""
    for name in [name for name in ("load_in_4bit", "load_in_8bit") if name in options]:
        yield (
            f"`model_init_kwargs` has `{name}`, which transformers no longer accepts there. In a recipe set `{name}: true` "
            "as a separate setting; in Python pass `quantization_config=BitsAndBytesConfig(...)`."
        )
    dtype = options.get("dtype")
    name = str(dtype).removeprefix("torch.")
    is_known = dtype in (None, "auto") or isinstance(getattr(torch, name, None), torch.dtype)
    if not is_known and not isinstance(dtype, Mapping):
        near = nearest(name, ("auto", "bfloat16", "float16", "float32"))
        yield f"`dtype` is {dtype!r}, which is not a torch dtype{near}"


def _optimizer(args: SPINConfig) -> Iterator[str]:
    """Yield a reason if the optimiser is not installed, or doesn't accept its arguments."""
    name = plain(args.optim)
    is_by_layer = any(part in name for part in _NEEDS_MODEL)
    # A stand-in to see whether the package is installed. Any module does, though the annotation wants transformers'.
    model: Any = torch.nn.Sequential(torch.nn.Linear(1, 1)) if is_by_layer else None
    try:
        cls, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if not {"params", "model", "optimizer_dict"} & set(options):
            cls([torch.nn.Parameter(torch.zeros(1))], **options)
    except Exception as error:  # each optimiser's package raises its own errors
        if isinstance(error, ImportError) or not is_by_layer:  # otherwise it is about layers that the stand-in lacks
            given = f" with `optim_args` {args.optim_args!r}" if args.optim_args else ""
            yield f"`optim` is {name!r}, which can't be used here{given}: {_error_in_words(error)}"


def _scheduler(args: SPINConfig) -> Iterator[str]:
    options = args.lr_scheduler_kwargs
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=max(args.learning_rate, 0))
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(10),
            num_training_steps=10,
            scheduler_specific_kwargs=as_mapping("lr_scheduler_kwargs", options) or {},
        )
    except Exception as error:
        given = f" with `lr_scheduler_kwargs` {options!r}" if options else ""
        name = plain(args.lr_scheduler_type)
        yield f"`lr_scheduler_type` is {name!r}, which can't be used{given}: {_error_in_words(error)}"


def _unknown_metric(play: SelfPlayConfig, judged: Sequence[str] | None) -> Iterator[str]:
    """Yield a reason if no iteration will have the figure that `metric_for_best_iteration` names."""
    from ..evaluation.figures import FIGURES, RETAINED, REVIEWED, SCORE, SCORE_GREEDY, is_score
    from ..evaluation.scoring import figures_of

    name = play.metric_for_best_iteration
    scores = figures_of(play.scorer, play.criteria, judged) if play.scorer else None
    of_scores = [figure.replace(SCORE, kind, 1) for kind in (SCORE, SCORE_GREEDY) for figure in scores or [SCORE]]
    known = [figure for figure in FIGURES if not figure.startswith((RETAINED, REVIEWED))]
    if not name.startswith(SCORE) and name not in known:
        yield (
            f"`metric_for_best_iteration` is {name!r}, which is not a held-out figure{nearest(name, known)} Known are "
            f"{', '.join(known)}; and score/NAME for a scorer that returns named numbers."
        )
    elif name.startswith(SCORE) and not (is_score(name) and (scores is None or name in of_scores)):
        what = f"the scorer returns {', '.join(of_scores)}" if scores else "no such figure is measured"
        yield f"`metric_for_best_iteration` is {name!r}, but {what}{nearest(name, of_scores)}"


def _error_in_words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
