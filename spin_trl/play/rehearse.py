"""Creates an iteration's trainer with a model without weights, to find what it would refuse before anything runs.

Trainer, DPOTrainer, PEFT and the data loader check their arguments when they are created, which in a run would be after the
start has been evaluated and the first prompts answered. The model used here has the real one's configuration but no weights;
one training step is made with a very small model.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import random
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, IntervalStrategy, PretrainedConfig, PreTrainedTokenizerBase
from transformers.trainer_utils import SaveStrategy
from trl import DPOConfig

from ..config.dpo_on_top import dpo_config, dpo_values
from ..config.engines import VLLM
from ..config.iteration import SPINConfig
from ..config.plain import accelerates_state_kept, differences_from_defaults
from ..config.sft import supervised_config
from ..config.sft_first import sft_first_config
from ..config.shipped import read_accelerate_config
from ..config.start import StartConfig
from ..config.traits import HARMLESS_MODEL_KWARGS, USUAL_SETTINGS
from ..errors import DataError, SpinError, nearest, noted
from ..judging.rubric import judged_criteria
from ..models.adapters import (
    adapter_refusals,
    base_of,
    hub_revision,
    is_adapter,
    load_adapter_config,
    output_layer_refusals,
    without_copies,
)
from ..models.loading import model_config_of
from ..run.journal import Step
from ..run.run import Run
from ..run.stage import Stage
from ..training.preference_trainer import PreferenceTrainer
from ..training.scratch import build_tokenizer, start_config
from ..training.supervised import SupervisedTrainer
from ..training.trainer import SPINTrainer
from ..training.unplayable import of_batches, of_configuration, of_run, of_settings, refusal_of_trainer
from . import given
from .answering.given_servers import against_servers
from .answering.served import against_continuous, against_vllm

logger = logging.getLogger(__name__)

ROWS, MOST_GENERATIONS = 2, 8
"""Numbers of rows and, at most, of generated responses per row in a rehearsal."""

OWN = frozenset(known.name for known in fields(SPINConfig)) - frozenset(known.name for known in fields(DPOConfig))
"""Settings that this package adds; they are checked when the settings object is created."""

_SMALL = StartConfig(start_vocab_size=300, start_hidden_size=8, start_num_layers=1, start_num_heads=1)
"""Sizes of the model used to rehearse a training step."""


def reasons(run: Run, rows: int, processes: int) -> list[str]:
    """Return the reasons a run can't be played, as far as they can be known before it begins; empty if there are none.

    Args:
        run: the run.
        rows: number of rows of the training dataset.
        processes: number of processes that train together.
    """
    if run.play.existing_run != "overwrite" and run.done(Step.TRAIN, Stage.of(run.play.num_iterations - 1)):
        return run.refused  # training has finished, so there is nothing left that could fail
    found = [*run.refused, *of_settings(run.args)]
    found += [*adapter_refusals(run.peft_config), *without_copies(run.peft_config)]
    if run.play.existing_run != "overwrite" and run.done(Step.TRAIN, Stage.of(0)):
        # An iteration was trained, so the checks below are known to pass; but the engine may have changed since.
        config = config_of(run) if run.args.engine == VLLM else None
        return [*found, *against_vllm(run, config), *against_servers(run)]
    config = config_of(run)
    found += of_run(run.args, run.play, judged_criteria(run.play))
    found += of_configuration(config, run.args, model_name(run))
    found += _quantised(run, config)
    found += [*against_vllm(run, config), *against_continuous(run, config), *against_servers(run)]
    if run.given is not None:
        found += given.refusals(run.given, run.processing_class, run.args, run.peft_config)
    else:
        found += _single_tokens(run, config)
        found += _unknown_options(run, config)
        found += hub_revision(run.model or "", run.args.model_kwargs.get("revision"))
    if run.args.train_on_turn != "all":
        found += of_batches(run.args, rows, processes)
    # If there is already a reason, the trainer would only repeat it in other words.
    return found or rehearse(run, config)


def processes_of(accelerate_config: str | None) -> int:
    """Return how many processes train together: in the launches that a run starts, or in the launch it is part of."""
    if not accelerate_config:
        return PartialState().num_processes
    return int(read_accelerate_config(accelerate_config).get("num_processes") or 1)


def config_of(run: Run) -> PretrainedConfig | None:
    """Return the configuration of a run's model; None if it can't be read, which loading the model will report."""
    if run.model is None:
        return start_config(run.start, run.start.start_vocab_size, run.args.max_length or 2048)
    if run.given is not None:
        return run.given.config
    with contextlib.suppress(DataError):
        path = str(run.model)
        return model_config_of(base_of(path) if is_adapter(path) else path, run.args)
    return None


def model_name(run: Run) -> str:
    """Return the name for a run's model in messages."""
    return "the model" if run.given is not None else f"the model {str(run.given_model)!r}"


_UNTRAINABLE = ("bitsandbytes", "gptq", "awq")
"""Quantisation methods whose weights can't be trained themselves."""


def _quantised(run: Run, config: PretrainedConfig | None) -> list[str]:
    """Return a reason if quantised weights would have to be trained themselves."""
    adapters = [run.peft_config, *([run.sft_peft_config] if run.sft_first else [])]
    if None not in adapters or isinstance(run.given, PeftModel) or starts_from_adapter(run):
        return []
    options = run.args.model_kwargs
    kinds = [run.quantization_config, options.get("quantization_config"), getattr(config, "quantization_config", None)]
    named = [
        one.get("quant_method") if isinstance(one, Mapping) else getattr(one, "quant_method", "") for one in kinds
    ]
    methods = [str(getattr(name, "value", name)) for name in named]
    found = [name for name in _UNTRAINABLE if any(name in method for method in methods)]
    if not found:
        return []
    return [
        f"The weights of {model_name(run)} are quantised ({found[0]}) and can't be trained themselves. Train an adapter on "
        "them: `use_peft: true`, or `peft_config` in Python" + (", for SFT as well." if run.sft_first else ".")
    ]


def starts_from_adapter(run: Run) -> bool:
    """Return whether the given model is an adapter given by its folder or Hub name."""
    return run.given is None and run.model is not None and is_adapter(run.model)


def _single_tokens(run: Run, config: PretrainedConfig | None) -> list[str]:
    """Return refusals of single trained tokens (`trainable_token_indices`), found by adapting a model without weights."""
    adapter = run.peft_config
    if starts_from_adapter(run):
        adapter = noted([], lambda: load_adapter_config(str(run.model)))
    if config is None or not getattr(adapter, "trainable_token_indices", None):
        return []
    try:
        with _unnoticed():
            return output_layer_refusals(_adapted(run, _without_weights(run, config)))
    except Exception as error:  # if it is real, loading or adapting the model will raise it
        logger.debug("No adapter was tried: %s: %s", type(error).__name__, error)
        return []


_SURE = HARMLESS_MODEL_KWARGS | {"load_in_4bit", "load_in_8bit"}
"""Options that are known to be valid, and those that are refused elsewhere."""

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def _unknown_options(run: Run, config: PretrainedConfig | None) -> list[str]:
    """Return refusals of unknown names in `model_init_kwargs`, found by loading a very small model with them.

    Their values are not used, since some would need a GPU or download something.
    """
    options = run.args.model_kwargs
    inner = config.get_text_config() if config is not None else None
    unsure = {name for name in options if not (hasattr(config, name) or hasattr(inner, name))} - _SURE
    if run.model is None or config is None or not unsure or run.args.trust_remote_code:
        return []
    found = []
    with _unnoticed(), tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(start_config(_SMALL, 300, 64)).save_pretrained(folder)
        while unsure:
            try:
                AutoModelForCausalLM.from_pretrained(folder, **dict.fromkeys(sorted(unsure)))
                break
            except Exception as error:
                unexpected = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
                if unexpected is None or unexpected[1] not in unsure:
                    break  # an error caused by a missing value proves nothing
                unsure.remove(unexpected[1])
                found.append(unexpected[1])
    known = [*HARMLESS_MODEL_KWARGS, *config.to_dict()]
    return [
        f"`model_init_kwargs` has {name!r}, which {model_name(run)} can't be loaded with{nearest(name, known, 0.6)}"
        for name in sorted(found)
    ]


def _adapted(run: Run, model: Any) -> Any:
    """Return a model with the adapter that is trained, if any."""
    if run.peft_config is None or isinstance(model, PeftModel):
        return model
    return get_peft_model(model, copy.deepcopy(run.peft_config))


def rehearse(run: Run, config: PretrainedConfig | None) -> list[str]:
    """Return what an iteration's trainer refuses when it is created for this model, or when it trains with these settings.

    Args:
        run: the run.
        config: configuration of the run's model; None: the model is not rehearsed.
    """
    if PartialState().num_processes > 1:
        return []  # it would communicate with the other processes, on a device they do not use
    with _unnoticed(), tempfile.TemporaryDirectory() as folder:
        found = _with_model(run, config, folder) if config is not None else []
        if not found and set(differences_from_defaults(run.args)) - USUAL_SETTINGS - OWN:
            found = _with_settings(run, folder)
        if not found and run.play.then_dpo and set(dpo_values(run.play)) - USUAL_SETTINGS:
            found = _with_dpo_settings(run, folder)
        if found and _train(_rehearsed(SPINConfig(folder, use_cpu=True, bf16=False), folder)):
            # If the defaults fail, too, the rehearsal itself is at fault, which is no reason to refuse a run.
            logger.debug("Nothing was rehearsed: %s", found)
            return []
    return found


def _with_model(run: Run, config: PretrainedConfig, folder: str) -> list[str]:
    """Return what is refused for this model: its attention implementation, layers to adapt, and DPOTrainer's own checks."""
    try:
        model = _without_weights(run, config)
    except Exception as error:
        # An attention implementation that does not exist, or whose package is not installed.
        if isinstance(error, ImportError) or (isinstance(error, ValueError) and "attn_implementation" in str(error)):
            return [f"The model can't be loaded with these settings: {error}"]
        # If it is real, loading the model will raise it.
        logger.debug("The model was not rehearsed: %s: %s", type(error).__name__, error)
        return []

    def make() -> None:
        if run.given is not None:
            tokenizer = run.processing_class or given.tokenizer_of(run.given, run.args)
        else:
            tokenizer = _small_tokenizer() if run.model is None else run.tokenizer()
        _rehearsed_trainer(_adapted(run, model), tokenizer, _rehearsed(run.iteration_args(0), folder))

    found = _refused(make, run.peft_config)
    if found or not (run.sft_first or run.play.baseline):
        return found
    return _refused(lambda: _rehearse_supervised(run, config, folder), run.sft_peft_config or run.peft_config)


def _rehearse_supervised(run: Run, config: PretrainedConfig, folder: str) -> None:
    """Create the trainer of SFT first, or else of a baseline arm, with a model without weights."""
    model = _without_weights(run, config)
    adapter = run.sft_peft_config if run.sft_first else run.peft_config
    if adapter is not None and not isinstance(model, PeftModel):
        model = get_peft_model(model, copy.deepcopy(adapter))
    args = _rehearsed(run.iteration_args(0), folder)
    is_first = run.sft_first
    settings = sft_first_config(args, run.play, measures=False) if is_first else supervised_config(args)
    rows = Dataset.from_list([{"input_ids": [1, 2, 3], "completion_mask": [0, 1, 1]}] * ROWS)
    tokenizer = _small_tokenizer() if run.model is None or run.given is not None else run.tokenizer()
    _SupervisedRehearsal(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)


def _with_settings(run: Run, folder: str) -> list[str]:
    """Return what a training step with these settings refuses, using a model with a few hundred weights."""
    args = _rehearsed(run.iteration_args(0), folder)
    args.pad_token = args.router_aux_loss_coef = None
    args.model_init_kwargs = {}
    # Installed optimisers have already been created once, and some can only step on GPUs.
    args.optim, args.optim_args, args.optim_target_modules = "adamw_torch", None, None

    return _train(args, run.peft_config)


def _with_dpo_settings(run: Run, folder: str) -> list[str]:
    """Return what a step of DPO with these settings refuses, using a model with a few hundred weights."""
    args = _rehearsed(dpo_config(run.args, run.play), folder)
    args.router_aux_loss_coef, args.model_init_kwargs, args.precompute_ref_log_probs = None, {}, True
    args.optim, args.optim_args, args.optim_target_modules = "adamw_torch", None, None

    def make() -> None:
        tokenizer = _small_tokenizer()
        model = AutoModelForCausalLM.from_config(start_config(_SMALL, len(tokenizer), 64), dtype=torch.float32)
        pairs = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " a"}] * ROWS)
        PreferenceTrainer(model, args, pairs, tokenizer).train()

    return [f"DPO on top (`dpo_args`): {reason}" for reason in _refused(make, None)]


def _train(args: SPINConfig, peft_config: Any = None) -> list[str]:
    """Return what a training step of a small model refuses."""

    def make() -> None:
        tokenizer = _small_tokenizer()
        model = AutoModelForCausalLM.from_config(start_config(_SMALL, len(tokenizer), 64), dtype=torch.float32)
        _rehearsed_trainer(model, tokenizer, args).train()

    return _refused(make, peft_config)


def _refused(make: Callable[[], None], peft_config: Any) -> list[str]:
    """Return the error with which a trainer refuses something, as a reason."""
    try:
        make()
    except SpinError as error:
        return [str(error)]
    except (ValueError, TypeError, ImportError, NotImplementedError, KeyError, AttributeError) as error:
        if "meta" in str(error):  # the rehearsal ends here: the next operation needs weights
            return []
        return [str(refusal_of_trainer(error, peft_config))]
    except Exception as error:  # if it is real, the run will raise it
        logger.debug("Nothing was rehearsed: %s: %s", type(error).__name__, error)
    return []


def _rehearsed_trainer(model: Any, tokenizer: PreTrainedTokenizerBase, args: SPINConfig) -> SPINTrainer:
    args.num_generations = min(args.num_generations, MOST_GENERATIONS)
    pairs = [(f"{number}", sample) for number in range(ROWS) for sample in range(args.num_generations)]
    generations = [{"key": key, "sample": sample, "ids": [1, 2]} for key, sample in pairs]
    row = {"prompt_hash": "", "prompt_ids": [1, 2], "real_ids": [3, 4], "prompt": "", "real": ""}
    return _Rehearsal(
        model=model,
        args=args,
        train_dataset=Dataset.from_list([{"key": f"{number}", **row} for number in range(ROWS)]),
        processing_class=tokenizer,
        generations=Dataset.from_list(generations),
    )


class _Rehearsal(SPINTrainer):
    """A trainer whose model may have no weights, and which does not check what model the generations come from."""

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """Do nothing: a small model is already on the CPU, and a model without weights can't be moved."""


class _SupervisedRehearsal(SupervisedTrainer):
    """A trainer of SFT whose model has no weights."""

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """Do nothing: a model without weights can't be moved."""


def _small_tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(iter(["a b"]), _SMALL, 64)


def _without_weights(run: Run, config: PretrainedConfig) -> Any:
    """Return the model that an iteration trains, on the meta device, without weights."""
    options = run.args.model_kwargs
    attention = options.get("attn_implementation")
    known = {"attn_implementation": attention} if attention and "/" not in str(attention) else {}
    trusts = bool(getattr(run.args, "trust_remote_code", False) or options.get("trust_remote_code"))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusts, dtype=torch.float32, **known)
        if starts_from_adapter(run):
            return get_peft_model(model, load_adapter_config(str(run.model)))
    return model


def _rehearsed(args: SPINConfig, folder: str) -> SPINConfig:
    """Return the settings for the CPU and a temporary folder, without anything that would leave traces."""
    args = copy.copy(args)
    args.output_dir, args.report_to, args.use_cpu = folder, [], True
    args.bf16 = args.fp16 = args.bf16_full_eval = args.fp16_full_eval = False
    args.torch_compile = args.use_liger_kernel = args.check_opponent = args.push_to_hub = False
    if args.device.type != "cpu":
        args.activation_offloading = False  # it is refused on CPUs
    args.full_determinism = args.dataloader_drop_last = args.dataloader_persistent_workers = False
    args.dataloader_num_workers, args.dataloader_prefetch_factor = 0, None
    args.per_device_train_batch_size = ROWS
    args.save_strategy, args.logging_strategy = SaveStrategy.NO, IntervalStrategy.NO
    args.empty_generations = args.truncated_generations = args.identical_generations = "keep"
    if args.max_length is not None:
        args.max_length = min(max(args.max_length, 16), 64)  # the small model has 64 positions
    args.max_steps, args.disable_tqdm = 1, True
    args.__dict__.pop("_setup_devices", None)  # cached at the first access to `device`
    assert args.device.type == "cpu"  # accessed now, since that sets accelerate's state
    return args


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
    """Suppress all output, and restore random states and accelerate's state afterwards.

    Anything worth reporting is reported again when the real trainer is created.
    """
    nowhere = io.StringIO()
    with torch.random.fork_rng(devices=[]), accelerates_state_kept(), contextlib.ExitStack() as afterwards:
        afterwards.callback(random.setstate, random.getstate())
        afterwards.callback(numpy.random.set_state, numpy.random.get_state())
        afterwards.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        afterwards.enter_context(warnings.catch_warnings(action="ignore"))
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield
