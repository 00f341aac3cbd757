"""The names of TRL's `DPOTrainer` and transformers' `Trainer` that the trainer relies on, and the reason for each.

`training/test_parent.py` looks for them in the installed versions, and for names that the package uses but that are
missing here.
"""

from __future__ import annotations

from collections.abc import Callable

import accelerate
import datasets.arrow_writer
import peft
import transformers
import trl
from transformers import Trainer
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from spin_trl.models.digest import FROZEN_ADAPTER

OVERRIDDEN: dict[str, tuple[tuple[str, ...], str]] = {
    "__init__": (
        ("model", "ref_model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class")
        + ("compute_metrics", "callbacks", "optimizers", "quantization_config", "peft_config"),
        "a drop-in takes the same arguments, in the same order",
    ),
    "_compute_loss": (("model", "inputs", "return_outputs"), "ours are added to the parent's loss"),
    "_get_dataloader": (("dataset",), "batches are laid out in the data loader's worker"),
    "_get_grad_norm": (("model", "grad_norm"), "a step whose gradients' norm is no number is not taken"),
    "_move_model_to_device": (("model", "device"), "a rehearsed model may have no weights to move"),
    "_precompute_ref_logps": (
        ("dataset", "name", "batch_size"),
        "the opponent's pass: over unique tokens, in batches of its own size, after it has answered",
    ),
    "_prepare_dataset": (
        ("dataset", "processing_class", "args", "dataset_name"),
        "human responses are left to us; given pairs go through TRL's own preparation",
    ),
    "_push_from_checkpoint": (("checkpoint_folder",), "pushes no pickle of the arguments"),
    "_save": (
        ("output_dir", "state_dict"),
        "saves neither the frozen adapter nor a pickle; adds what ends a response",
    ),
    "_save_checkpoint": (("model", "trial"), "a manifest says when a checkpoint is whole"),
    "_set_signature_columns_if_needed": ((), "columns that name a generation reach the collator"),
    "compute_loss": (
        ("model", "inputs", "return_outputs", "num_items_in_batch"),
        "a loss that is no number is noted with its rows",
    ),
    "compute_ref_log_probs": (("model", "inputs"), "the opponent, too, runs over unique tokens"),
    "create_model_card": (("model_name", "dataset_name", "tags"), "the card names the base model of a local folder"),
    "evaluate": (("eval_dataset",), "human responses may be evaluated on, once they are answered"),
    "get_batch_samples": ((), "the micro-batches of a step learn of each other"),
    "log": (("logs",), "skipped steps are counted, and a collapse is warned of"),
    "predict": (("test_dataset",), "human responses may be predicted on, once they are answered"),
    "training_step": ((), "figures of a skipped step are recognised by their number before it"),
    "train": (("resume_from_checkpoint",), "the opponent answers first; only checkpoints that are whole are resumed"),
}
"""Methods of the parents that ours override: the first parameters, and the reason. Each calls its parent's."""

CALLED: dict[str, tuple[tuple[str, ...], str]] = {
    "_get_output_dir": (("trial",), "where a checkpoint goes"),
    "_prepare_inputs": (("inputs",), "a micro-batch that is looked at before its step goes to the device"),
    "add_callback": (("callback",), "a phase reports its steps"),
    "compute_loss_context_manager": ((), "that micro-batch is computed in the step's precision"),
    "is_world_process_zero": ((), "one process completes the card"),
    "remove_callback": (("callback",), "the loop prints, not Trainer"),
    "save_model": (("output_dir", "_internal_call"), "a phase saves the model when it is trained"),
}
"""Further methods of the parents that are called: the first parameters, and the reason."""

ATTRIBUTES: dict[str, str] = {
    "_metrics": "where the figures of an objective are logged",
    "_name": "what the card calls the method",
    "_paper": "what the card cites",
    "_precompute_model_hash": "set when the policy becomes the next opponent: by it cached log-probabilities are found",
    "_signature_columns": "the columns that are kept; ours are added",
    "_tag_names": "tags of the card and the model",
    "_tokenizer": "of the processing class",
    "accelerator": "processes, devices, and what is gathered",
    "args": "the settings",
    "beta": "by which rewards are log-ratios",
    "aux_loss_enabled": "with it prompts are not shared",
    "data_collator": "set to ours once there are generations, and while loaders are made that lay out",
    "eval_dataset": "set when the opponent has answered",
    "is_deepspeed_enabled": "weights are not whole",
    "is_fsdp_enabled": "weights are not whole",
    "ld_alpha": "with it summed log-probabilities are not what the opponent is compared by",
    "loss_types": "set to TRL's alone, once its constructor is done; ours are added to their loss",
    "loss_weights": "likewise",
    "model": "the policy, not wrapped",
    "optimizer": "its step is omitted if the step is skipped",
    "model_wrapped": "the policy, as a step runs it",
    "precompute_ref_logps": "whether the opponent's log-probabilities come with the batch; unset where they can't",
    "ref_model": "an opponent that is a model of its own",
    "state": "how many steps have been made, and what was logged",
    "train_dataset": "set when the opponent has answered",
}
"""Attributes of the parents that are read or set, and the reason."""

TRICKS: list[tuple[Callable[..., object], tuple[str, ...], str]] = [
    (
        DPOTrainer.__init__,
        ("_prepare_dataset", "_precompute_ref_logps"),
        "calls both, ours, before there is a model to prepare for: until `_ready` they return human responses as they are",
    ),
    (
        DPOTrainer.__init__,
        ("precompute_ref_log_probs", "ref_model", "is_fsdp_enabled"),
        "loads no reference where `precompute_ref_log_probs` is set: objectives without an opponent set it for that",
    ),
    (
        DPOTrainer.__init__,
        ("get_config_model_id", "create_model_from_path", "_precompute_ref_logps"),
        "under FSDP loads the opponent from the start's folder, by the model's own name, for that pass",
    ),
    (
        DPOTrainer.__init__,
        ("add_adapter", FROZEN_ADAPTER),
        "adds the frozen copy of an adapter under the name that ours look for, and by the configuration that "
        "`initialised_plainly` has changed",
    ),
    (
        DPOTrainer.__init__,
        ("bfloat16", "requires_grad", "lora_magnitude_vector"),
        "rounds adapters on quantised weights to bfloat16: `trainable_adapters` keeps them, `fit_adapters` puts them back",
    ),
    (
        DPOTrainer.__init__,
        ("create_model_from_path", "model_init_kwargs", "quantization_config"),
        "loads a name as a whole model, so a folder with an adapter is loaded before it",
    ),
    (
        DPOTrainer.compute_ref_log_probs,
        ("use_adapter", FROZEN_ADAPTER, "fused_lm_head", "log_probs", "completion_mask"),
        "switches to the frozen copy, and scores through the forward that we wrap",
    ),
    (
        DPOTrainer._compute_loss,
        ("loss_types", "loss_weights", "precompute_ref_logps", "ref_chosen_logps", "ref_rejected_logps"),
        "looks at these in every step: `_compared_with` sets them for one; the constructor checks lists of losses, which "
        "are shortened after it",
    ),
    (
        DPOTrainer._compute_loss,
        ("fused_lm_head", "log_probs", "completion_mask", "_metrics"),
        "runs one forward for both responses, whose `log_probs` are recorded",
    ),
    (
        DPOTrainer._precompute_ref_logps,
        ("compute_ref_log_probs", "data_collator", "_precompute_model_hash", "_fingerprint"),
        "names its cache by the dataset's fingerprint, hence pairs with another one for other generations",
    ),
    (DPOTrainer.evaluate, ("_prepare_dataset", "_precompute_ref_logps"), "prepares a dataset that is passed, by ours"),
    (DPOTrainer._set_signature_columns_if_needed, ("_signature_columns",), "fills a list, to which ours are added"),
    (
        Trainer._get_dataloader,
        ("data_collator",),
        "takes the collator when a loader is made, which `_laying_out` sets",
    ),
    (Trainer._run_epoch, ("get_batch_samples",), "asks for all micro-batches of a step at once"),
    (
        Trainer._save,
        ("save_pretrained", "save", "args"),
        "pickles its arguments with `torch.save`, which leaves them out",
    ),
    (Trainer._push_from_checkpoint, ("save", "args"), "the same"),
    (Trainer.save_model, ("_save",), "saves by ours, whatever engine trains"),
    (Trainer._maybe_log_save_evaluate, ("_save_checkpoint",), "writes checkpoints by ours"),
    (
        DataCollatorForPreference.torch_call,
        ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps"),
        "lays out what ours has put under TRL's names",
    ),
]
"""Names in the body of the parents' functions, and how ours depend on them."""

PRIVATE: dict[str, tuple[object, str]] = {
    "_CHUNKED_LOGPROB_CHUNK_SIZE": ("trl.trainer.utils", "TRL's head computes in smaller pieces on a CPU"),
    "_VALID_DICT_FIELDS": (trl.DPOConfig, "settings that a command line gives as JSON"),
    "_attn_implementation": (transformers.PreTrainedConfig, "which attention a model has"),
    "_buffer_dict": (peft.tuners, "where PEFT keeps adapters that are buffers"),
    "_data": (datasets.Dataset, "whether rows lie in memory"),
    "_encode_plus": (transformers.PreTrainedTokenizerFast, "whether a tokenizer hands texts on as they are"),
    "_fingerprint": (datasets.Dataset, "by which TRL finds what it has cached"),
    "_hf_argparser": (trl.scripts, "a type, for mypy alone"),
    "_indices": (datasets.Dataset, "whether rows are selected"),
    "_info": (datasets.Dataset, "a dataset's features, changed in place"),
    "_is_stateful": (transformers.PreTrainedModel, "whether a state other than a cache of keys and values is kept"),
    "_is_overflow": (
        accelerate.optimizer.AcceleratedOptimizer,
        "whether Trainer is to leave the schedule where it is",
    ),
    "_name_or_path": (transformers.PreTrainedConfig, "from where a model was loaded"),
    "_num_examples": (datasets.arrow_writer.ArrowWriter, "whether anything was written"),
    "_optimizers": (accelerate.Accelerator, "the optimizers that Trainer asks whether a step was skipped"),
    "_setup_devices": (
        transformers.TrainingArguments,
        "the device that settings have found, forgotten in a rehearsal",
    ),
    "_shared_state": (accelerate.PartialState, "kept and restored where settings are only looked at"),
}
"""Private names of the libraries that the package uses anywhere: their class or module, and the reason."""

OF_OTHERS = {
    "_actions", "_add_action", "_cdata", "_choices_actions", "_exit", "_has_fused_head", "_modules",
    "_option_string_actions", "_xoptions",
}  # fmt: skip
"""Private names of Python's and torch's objects, and our own mark on a model."""
