"""`spin-trl init`: a recipe that fits a dataset and a model."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from ..report.terminal import shown_path
from .commands import add_command
from .session import quieten

_WHAT_IT_WRITES = """\
Write a recipe with comments. The columns and lengths of the data, the model's configuration and tokenizer, and this machine
decide what stands in it; no weights are read. What is not named stands as a placeholder. No file is overwritten.
"""


def add(commands: Any) -> None:
    """Add the arguments."""
    parser = add_command(
        commands,
        "init",
        write_new_recipe,
        help="write a recipe that fits your data and model",
        description=_WHAT_IT_WRITES,
        takes_settings=False,
    )
    parser.add_argument("--model", metavar="NAME", help="the start: an SFT checkpoint, a folder or a name on the Hub")
    parser.add_argument("--data", metavar="NAME", help="JSONL, JSON, Parquet, CSV or TSV file, folder, or Hub name")
    parser.add_argument("--data_config", metavar="NAME", help="configuration of a dataset on the Hub")
    parser.add_argument("--data_split", metavar="NAME", default="train", help="split to train on (train)")
    parser.add_argument("--output", metavar="FILE", default="recipe.yaml", help="where to write it (recipe.yaml)")
    parser.add_argument("--force", action="store_true", help="overwrite that file")


def write_new_recipe(options: argparse.Namespace, overrides: list[str]) -> None:
    """Write the recipe, and say what was seen and what to do next."""
    quieten()
    from ..play.init import check_output, seen_in_words, write_recipe
    from ..play.look import look_at_data, look_at_model, this_machine

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
        print(f"Next: name {' and '.join(missing)} in it, then")
    else:
        print("Next:")
    print(f"  spin-trl preview {name}       rows as they will be tokenised")
    print(f"  spin-trl plan {name}          memory, hours and disk")
    print(f"  spin-trl run {name} --smoke   two iterations on eight rows")
    print(f"  spin-trl run {name}")
