"""`spin-trl init`: write a recipe that fits a dataset and a model."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from ..report.terminal import shown_path
from .commands import add_command
from .session import quieten

_WHAT_IT_WRITES = """\
Write a commented recipe. Its settings are chosen from the columns and lengths of the data, the model's configuration and
tokenizer, and this machine; no weights are read. A model or dataset that is not named is left as a placeholder. An existing
file is overwritten only with `--force`.
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "init",
        write_new_recipe,
        help="write a recipe that fits your data and model",
        description=_WHAT_IT_WRITES,
        takes_settings=False,
    )
    parser.add_argument("--model", metavar="NAME", help="the start: an SFT checkpoint, as a folder or a Hub name")
    parser.add_argument(
        "--data", metavar="NAME", help="JSONL, JSON, Parquet, CSV or TSV file, a folder, or a Hub name"
    )
    parser.add_argument("--data_config", metavar="NAME", help="configuration of a dataset on the Hub")
    parser.add_argument("--data_split", metavar="NAME", default="train", help="split to train on (default: train)")
    parser.add_argument("--output", metavar="FILE", default="recipe.yaml", help="file to write (default: recipe.yaml)")
    parser.add_argument("--force", action="store_true", help="overwrite the output file")


def write_new_recipe(options: argparse.Namespace, overrides: list[str]) -> None:
    """Write the recipe, and print what it is based on and what to do next."""
    quieten()
    from ..play.first_steps.init import check_output, seen_in_words, write_recipe
    from ..play.first_steps.look import look_at_data, look_at_model, this_machine

    path = check_output(options.output, force=options.force)
    model = None if options.model is None else look_at_model(options.model)
    data = None if options.data is None else look_at_data(options.data, options.data_config, options.data_split, model)
    machine = this_machine()
    new = write_recipe(path, model, data, machine)
    for line in seen_in_words(model, data, machine, new):
        print(line)
    print(f"Written: {shown_path(path)}")
    name = shlex.quote(options.output)
    missing = [what for what, found in (("the model", model), ("the data", data)) if found is None]
    if missing:
        print(f"Next, fill in {' and '.join(missing)}, then:")
    else:
        print("Next:")
    print(f"  spin-trl preview {name}       show rows as they will be tokenised")
    print(f"  spin-trl plan {name}          estimate memory, hours and disk")
    print(f"  spin-trl run {name} --smoke   try two iterations on eight rows")
    print(f"  spin-trl run {name}")
