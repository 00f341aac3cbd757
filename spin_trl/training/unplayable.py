"""What keeps settings from being played, found before anything runs: each reason a sentence or two, all in one message.

A run that can't be trained would say so only after the start has been measured and the first prompts have been answered. So
whatever an iteration's trainer would refuse is asked for beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PretrainedConfig, Trainer, get_scheduler, integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.utils import is_liger_kernel_available

from ..config.checks import as_mapping, declared
from ..config.iteration import TRL_SETTINGS, SPINConfig
from ..config.loop import SelfPlayConfig, iteration_settings
from ..counts import agreeing, counted
from ..errors import RecipeError, nearest, noted
from ..generation.engine import Sampling, check_engine

_NEEDS_MODEL = ("galore", "apollo", "lomo")
"""Optimisers that are made from a model's layers."""


def refusal_of_trainer(error: Exception, peft_config: Any) -> RecipeError:
    """What to say when an iteration's trainer can't be made."""
    # PEFT knows which layers to adapt for some kinds of models only.
    unnamed = "target_modules" in str(error) and getattr(peft_config, "target_modules", "") is None
    advice = " Set `lora_target_modules: all-linear`, or name the layers." if unnamed else ""
    return RecipeError(f"These settings can't be trained with: {error}{advice}")


def of_settings(args: SPINConfig, model: torch.nn.Module | None = None) -> list[str]:
    """What an iteration can't be played with, whoever plays it.

    Args:
        args: its settings.
        model: what is trained, where it is at hand: some optimisers are made from its layers.
    """
    unknown: list[str] = []
    noted(unknown, lambda: check_engine(args.engine))
    return [
        *unknown,
        *_noise(args),
        *_ranges(args),
        *_offloading(args),
        *_loading(args.model_kwargs),
        *trackers(args.report_to or []),
        *_optimizer(args, model),
        *_scheduler(args),
    ]


def of_run(args: SPINConfig, play: SelfPlayConfig) -> list[str]:
    """What a run of several iterations can't be played with, beside what [`of_settings`] finds."""
    return [*_evaluation(args), *_plugins(args), *_unknown_metric(play), *_per_iteration(play)]


def of_positions(config: PretrainedConfig | None, args: SPINConfig, name: str) -> list[str]:
    """Fewer positions than `max_length`.

    Args:
        config: of the model, or None: it is not known.
        args: settings of an iteration.
        name: of the model, for the message.
    """
    limit = positions(config)
    if limit is None or args.max_length is None or args.max_length <= limit:
        return []
    return [
        f"`max_length` is {args.max_length}, but {name} has {limit} positions (`max_position_embeddings`). Set "
        f"`max_length` to {limit} at most, or give the model's configuration a scaling of its positions (`rope_parameters`)."
    ]


def of_lengths(
    config: PretrainedConfig | None, args: SPINConfig, name: str, datasets: Iterable[Dataset], *, answers: bool = True
) -> list[str]:
    """Rows that are longer than the model has positions for, where `max_length` does not see to it.

    Args:
        config: of the model, or None: it is not known.
        args: settings of an iteration.
        name: of the model, for the message.
        datasets: prepared rows.
        answers: whether the prompts are going to be answered.
    """
    limit = positions(config)
    if limit is None or (args.max_length is not None and args.truncation_mode == "keep_start"):
        return []  # [`of_positions`] has compared them
    longest, of_prompts = 0, 0
    for rows in datasets:
        for row in rows.select_columns(["prompt_ids", "real_ids"]):
            longest = max(longest, len(row["prompt_ids"]) + len(row["real_ids"]))
            of_prompts = max(of_prompts, len(row["prompt_ids"]))
    has = f"but {name} has {limit} positions (`max_position_embeddings`)"
    if args.max_length is None and longest > limit:
        return [
            f"The longest row has {longest} tokens, {has}. Set `max_length` to {limit} at most, or give the model's "
            "configuration a scaling of its positions (`rope_parameters`)."
        ]
    if of_prompts >= limit:
        return [
            f"The longest prompt has {of_prompts} tokens, {has}. Leave out `truncation_mode`, and rows whose prompts have "
            "`max_length` tokens or more are left out."
        ]
    of_answer = Sampling.from_args(args).limit(of_prompts)
    if not answers or of_prompts + of_answer <= limit:
        return []
    return [
        f"The longest prompt has {of_prompts} tokens and its answer may have {of_answer} more (`max_new_tokens`), {has}. "
        f"Set `max_new_tokens` to {limit - of_prompts} at most, or `max_length` to {limit}."
    ]


def positions(config: PretrainedConfig | None) -> int | None:
    """Tokens that a model has positions for; None where that is not known, or where there is no limit (ALiBi, Mamba)."""
    if config is None:
        return None
    text = config.get_text_config()
    known: Any = getattr(text, "max_position_embeddings", None)
    if not isinstance(known, int) or known <= 0 or getattr(text, "alibi", False):
        return None
    limit: int = known
    scalings = [getattr(text, "rope_parameters", None), getattr(text, "rope_scaling", None)]
    for scaling in [one for one in scalings if isinstance(one, Mapping)]:
        # Layers of several kinds may have a scaling each.
        for one in [scaling, *(part for part in scaling.values() if isinstance(part, Mapping))]:
            factor, trained = one.get("factor"), one.get("original_max_position_embeddings") or known
            if isinstance(factor, int | float) and isinstance(trained, int):
                limit = max(limit, int(factor * trained))
    return limit


def of_batches(args: SPINConfig, rows: float, processes: int) -> list[str]:
    """Fewer pairs than one batch of all processes, where incomplete batches are dropped.

    Args:
        args: settings of an iteration.
        rows: responses to train on, at most.
        processes: that train together.
    """
    batch, pairs = args.per_device_train_batch_size, rows * args.num_generations
    if not args.dataloader_drop_last or pairs >= batch * processes:
        return []
    whole = f"{batch} x {processes} processes" if processes > 1 else f"{batch}"
    return [
        "`dataloader_drop_last` leaves nothing to train on: there "
        f"{agreeing(pairs, 'is', 'are')} {counted(pairs, 'pair')} at most, fewer than one whole batch "
        f"(`per_device_train_batch_size`: {whole}). Leave it out, or make the batch smaller."
    ]


def trackers(names: str | Sequence[str]) -> list[str]:
    """Trackers of `report_to` that there are none of, or that are not installed."""
    known = [*INTEGRATION_TO_CALLBACK, "all", "none"]
    reasons = []
    for name in [names] if isinstance(names, str) else names:
        if name in ("all", "none"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            reasons.append(f"`report_to` names {name!r}, which is no tracker{nearest(str(name), known)}")
        elif not _is_installed(name):
            reasons.append(
                f"`report_to` names {name!r}, which is not installed: install it, or set `report_to: none`."
            )
    return reasons


def _is_installed(tracker: str) -> bool:
    called = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}.get(tracker, tracker)
    is_available = getattr(integrations, f"is_{called}_available", None)
    try:
        return is_available is None or bool(is_available())
    except Exception:  # it is there, and has more to say when it is made
        return True


def _noise(args: SPINConfig) -> list[str]:
    reasons = []
    if args.neftune_noise_alpha:
        reasons.append(
            f"`neftune_noise_alpha` ({args.neftune_noise_alpha:g}) adds noise to what the policy reads, but not to what its "
            "opponent reads, so the policy would not start at its opponent. Leave it out."
        )
    if args.sync_ref_model:
        reasons.append("`sync_ref_model` moves the reference model, but the opponent is frozen in an iteration.")
    return reasons


def _ranges(args: SPINConfig) -> list[str]:
    """Values with which nothing could be trained."""
    reasons = args.out_of_bounds()
    if args.max_steps == 0:
        reasons.append("`max_steps` is 0: nothing would be trained. Leave it out (-1) to count epochs.")
    if args.train_sampling_strategy == "group_by_length":
        reasons.append(
            "`train_sampling_strategy: group_by_length` goes by the length of one text, and a pair has two responses. Leave "
            "it out."
        )
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        reasons.append("`dataloader_persistent_workers` needs `dataloader_num_workers` of 1 or more.")
    if args.use_liger_kernel and not is_liger_kernel_available():
        reasons.append("`use_liger_kernel` needs the package liger-kernel, which is not installed.")
    return reasons


def _loading(options: Mapping[str, Any]) -> list[str]:
    """Options of `model_init_kwargs` with which no model could be loaded."""
    reasons = [
        f"`model_init_kwargs` has `{name}`, which transformers no longer takes there. In a recipe set `{name}: true` beside "
        "it; in Python pass `quantization_config=BitsAndBytesConfig(...)`."
        for name in ("load_in_4bit", "load_in_8bit")
        if name in options
    ]
    dtype = options.get("dtype")
    name = str(dtype).removeprefix("torch.")
    is_known = dtype in (None, "auto") or isinstance(getattr(torch, name, None), torch.dtype)
    if not is_known and not isinstance(dtype, Mapping):
        near = nearest(name, ("auto", "bfloat16", "float16", "float32"))
        reasons.append(f"`dtype` is {dtype!r}, which is no format of numbers that torch knows{near}")
    return reasons


def _offloading(args: SPINConfig) -> list[str]:
    if not args.activation_offloading or args.device.type != "cpu":
        return []
    return [
        "`activation_offloading` moves activations from a GPU into the memory of the CPU, and this run is on the CPU. Leave "
        "it out."
    ]


def _optimizer(args: SPINConfig, model: torch.nn.Module | None) -> list[str]:
    """An optimiser that is not installed, or that doesn't take its arguments."""
    name = str(getattr(args.optim, "value", args.optim))
    if model is None and any(part in name for part in _NEEDS_MODEL):
        model = torch.nn.Sequential(torch.nn.Linear(1, 1))  # enough to see whether its package is installed
    try:
        # Any module does, though its type asks for one of transformers'.
        cls, options = Trainer.get_optimizer_cls_and_kwargs(args, cast(Any, model))
        if not {"params", "model", "optimizer_dict"} & set(options):
            cls([torch.nn.Parameter(torch.zeros(1))], **options)
    except Exception as error:  # every optimiser's package has its own
        if isinstance(model, torch.nn.Sequential) and not isinstance(error, ImportError):
            return []  # of layers that this one does not have
        options = f" with `optim_args` {args.optim_args!r}" if args.optim_args else ""
        return [f"`optim` is {name!r}, which can't be used here{options}: {_error_in_words(error)}"]
    return []


def _scheduler(args: SPINConfig) -> list[str]:
    name, options = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)), args.lr_scheduler_kwargs
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
        return [f"`lr_scheduler_type` is {name!r}, which can't be used{given}: {_error_in_words(error)}"]
    return []


def _evaluation(args: SPINConfig) -> list[str]:
    """Settings of Trainer's own evaluation, for which a run has no data."""
    found = []
    for name in ("eval_strategy", "save_strategy"):
        value = str(getattr(getattr(args, name), "value", getattr(args, name)))
        if value == "best" or (name == "eval_strategy" and value != "no"):
            found.append(f"{name}: {value}")
    found += [f"{name}: true" for name in ("eval_on_start", "load_best_model_at_end") if getattr(args, name)]
    if not found:
        return []
    return [
        f"`{'`, `'.join(found)}`: an iteration's training has no dataset to evaluate on. A run measures every iteration on "
        "held-out prompts, and delivers the best by `metric_for_best_iteration`. Leave "
        f"{agreeing(len(found), 'it', 'them')} out."
    ]


def _plugins(args: SPINConfig) -> list[str]:
    found = [name for name in ("deepspeed", "fsdp") if getattr(args, name, None)]
    if not found:
        return []
    return [
        f"`{'` and `'.join(found)}` would load the model in parts in every phase, and answers need it whole. Leave it out, "
        "and name a configuration of accelerate as `accelerate_config` (`zero3`, or a file): it is used where it fits."
    ]


def _unknown_metric(play: SelfPlayConfig) -> list[str]:
    """A figure that no iteration will have."""
    from ..evaluation.figures import FIGURES, SCORE, SCORE_GREEDY, is_score
    from ..evaluation.scoring import figures_of

    name = play.metric_for_best_iteration
    scores = figures_of(play.scorer) if play.scorer else None
    if name.startswith(SCORE):
        given = None if scores is None else scores + [f"{SCORE_GREEDY}{one.removeprefix(SCORE)}" for one in scores]
        if is_score(name) and (given is None or name in given):
            return []
        given = given or [SCORE, SCORE_GREEDY]
        what = f"the scorer gives {', '.join(given)}" if scores else "no such figure is measured"
        return [f"`metric_for_best_iteration` is {name!r}, but {what}{nearest(name, given)}"]
    if name in FIGURES:
        return []
    return [
        f"`metric_for_best_iteration` is {name!r}, which is no held-out figure{nearest(name, FIGURES)} Known are "
        f"{', '.join(FIGURES)}; of a scorer that returns named numbers, score/NAME."
    ]


def _per_iteration(play: SelfPlayConfig) -> list[str]:
    allowed = {**TRL_SETTINGS, **declared(SPINConfig)}
    return [
        f"`{name}` is {value:g} in iteration {iteration}; it must be {allowed[name]}."
        for iteration in range(play.num_iterations)
        for name, value in iteration_settings(play, iteration).items()
        if value not in allowed[name]
    ]


def _error_in_words(error: Exception) -> str:
    return f"{str(error).strip() or type(error).__name__}"
