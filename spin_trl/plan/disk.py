"""What a run writes: models, the checkpoints of one iteration, and generations."""

from __future__ import annotations

import math

from .hours import Work
from .memory import MemoryPlan
from .optimizers import kept_by, state_bytes
from .setup import Setup
from .tokens import Lengths

BYTES_A_TOKEN = 4
"""Of token ids in Parquet and Arrow files."""

COPIES = 3
"""Times that a generated token is written: as it was sampled, in the pairs, and in those with log-probabilities."""

TOKENIZER = 15_000_000
"""Bytes of a tokenizer, which lies beside every model."""


def plan_disk(setup: Setup, lengths: Lengths, memory: MemoryPlan, work: list[Work]) -> dict[str, int]:
    """Bytes by kind, when the run needs most.

    Args:
        setup: of the run.
        lengths: of its prompts and responses.
        memory: which knows its models.
        work: of all stages.
    """
    policy, play, args = memory.policy, setup.play, setup.args
    whole = policy.num_parameters * setup.dtype.itemsize
    adapter = 4 * policy.num_trainable
    is_merged = setup.peft is not None and play.lora_opponent == "merge"
    model = (whole if setup.peft is None or is_merged else adapter) + TOKENIZER
    # The best is kept beside the newest ones, and the one that is being made lies beside those.
    kept = play.num_iterations if play.keep_iterations is None else min(play.keep_iterations + 2, play.num_iterations)
    arms = len(play.baseline_label_smoothing) * play.num_iterations if play.baseline else 0
    found = {"models": (kept + arms + setup.is_from_scratch) * model}
    optim = setup.optim
    if setup.sharding.is_sharded:  # in float32, with its optimiser
        checkpoint = whole + round(4 * (1 + kept_by(optim).states) * policy.num_trainable)
    else:
        checkpoint = (whole if setup.peft is None else adapter) + state_bytes(optim, policy.trainable)
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    if strategy != "no":
        steps = max(one.steps for one in work)
        every = args.save_steps if args.save_steps >= 1 else args.save_steps * steps
        count = math.ceil(steps / max(every, 1)) if strategy == "steps" else math.ceil(args.num_train_epochs)
        if args.save_total_limit:
            count = min(count, args.save_total_limit + 1)  # the oldest goes when the newest is written
        found["checkpoints"] = count * checkpoint
    rows = (lengths.num_rows + lengths.num_held_out) * (lengths.prompt + lengths.real)
    found["data and generations"] = round(
        BYTES_A_TOKEN * (2 * rows + COPIES * sum(one.sampled for one in work) + COPIES * rows * play.num_iterations)
    )
    if not setup.is_from_scratch:
        found["the start, in the Hub's cache"] = 2 * policy.num_parameters
    return found
