"""The data of a run: prepared and split once, and seen to be the same whenever the run is continued."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from ..data.arrow import save_rows
from ..data.held_out import split_held_out
from ..data.keys import RowKeys, row_keys
from ..data.prepare import Prepared, prepare_and_count
from ..errors import DataError, RecipeError
from ..hub.lineage import Origin, dataset_origin, model_origin
from .directory import START
from .run import Run
from .start import make_tokenizer

PACKAGES = ("spin_trl", "torch", "transformers", "trl", "peft", "datasets", "accelerate")
STAGE = "data"


def prepare_data(run: Run, train: Dataset, held_out: Dataset | None) -> None:
    """Turn the data into rows of tokens and hold some out, once; later, only see to it that it is still the same data.

    Args:
        run: the run.
        train: human responses.
        held_out: human responses to evaluate on, or None: a share of the prompts is held out.

    Raises:
        DataError: a row can't be used, or the data has changed since the run was started.
    """
    state = PartialState()
    if run.model is None:
        make_tokenizer(run, train)
    if state.is_main_process:
        keys = row_keys(train)
        digests = {"dataset": keys.digest, "held_out_dataset": held_out and row_keys(held_out).digest}
        known = run.done("prepare", STAGE)
        if known is None:
            _prepare(run, train, held_out, keys, digests)
        for name, found in digests.items():
            if known is not None and known[name] != found:
                raise DataError(
                    f"The dataset has changed since {run.directory.path} was started ({name}: {known[name]} then, {found} "
                    "now), so its generations no longer fit. Restore the data, or start a new run."
                )
    state.wait_for_everyone()
    if run.args.order_schedule == "gap" and run.play.num_iterations > 1 and not len(run.rows(held_out=True)):
        raise RecipeError(
            "`iris_schedule: gap` measures how far an iteration has come on held-out prompts, but none are held out. Raise "
            "`held_out_fraction`, name `held_out_name`, or choose another schedule."
        )


def _prepare(
    run: Run, train: Dataset, held_out: Dataset | None, keys: RowKeys, digests: dict[str, str | None]
) -> None:
    template = run.template()

    def prepared(dataset: Dataset, name: str, known_keys: RowKeys | None = None) -> Prepared:
        return prepare_and_count(
            dataset,
            template,
            max_length=run.args.max_length if run.args.truncation_mode == "keep_start" else None,
            turn=run.args.train_on_turn,
            num_proc=run.args.dataset_num_proc,
            keys=known_keys,
            name=name,
        )

    found = prepared(train, "train", keys)
    rows = found.rows
    if held_out is None:
        rows, held_out_rows = split_held_out(rows, run.play.held_out_fraction, run.play.held_out_max)
    else:
        held_out_rows = prepared(held_out, "held-out").rows
        held_out_rows = held_out_rows.select(range(min(len(held_out_rows), run.play.held_out_max)))
    save_rows(rows, run.directory.train_rows)
    save_rows(held_out_rows, run.directory.held_out_rows)
    run.journal.append(
        "prepare",
        STAGE,
        **digests,
        template=template.digest(),
        train_rows=len(rows),
        held_out_rows=len(held_out_rows),
        left_out=found.too_long,
        notes={note: {"responses": count, "first_row": first} for note, (count, first) in found.notes.items()},
        versions={package: _version(package) for package in PACKAGES},
        origins=_origins(run, train, held_out),
    )


def _origins(run: Run, train: Dataset, held_out: Dataset | None) -> dict[str, dict[str, Any]]:
    """Where model and data come from, as far as that can be known, for the cards."""
    named = run.sources
    revision = (run.args.model_init_kwargs or {}).get("revision")
    is_named = run.model is not None and run.model != str(run.directory.model(START))
    found: dict[str, Origin | None] = {
        "model": model_origin(str(run.model), revision) if is_named else None,
        "data": dataset_origin(train, named.get("dataset_name"), named.get("dataset_revision")),
        "held_out": dataset_origin(held_out, named.get("held_out_name")) if held_out is not None else None,
    }
    return {name: origin.as_dict() for name, origin in found.items() if origin is not None}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
