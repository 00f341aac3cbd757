"""Which code the settings of a run name, and whether this user has trusted it on this machine.

Whoever hands over a run directory controls all that is in it. So what is trusted is not kept there: the marker has only a
random name of the run (`identity`), and files of this user, beside the Hub's cache, have the code that was trusted under it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ..config.arguments import is_overridden
from ..config.checks import as_mapping
from ..config.recipe import Recipe
from ..config.shipped import accelerate_configs
from ..config.traits import HARMLESS_MODEL_KWARGS
from ..data.reading.local import is_local
from ..errors import RunDirectoryError
from ..files import read_json, write_json
from .ownership import Ownership

Code = Mapping[str, str]
"""Code that settings name, by the setting."""

_OURS = ("spin_trl.sentences:load", "spin_trl.sentences:score")
"""Functions of this package that its own recipes name. Others could lead to whatever its modules import."""

_IDENTITY = re.compile("[0-9a-f]{32}")

CODE_OF_MODELS = frozenset({"attn_implementation", "model_init_kwargs", "trust_remote_code"})
"""Settings that name code which loading a model runs."""


def named_code(settings: Mapping[str, Any]) -> dict[str, str]:
    """The code that settings name, by the setting: the one list of what a recipe can run.

    Args:
        settings: as a recipe's, under their names here.
    """
    found = {}
    for name in ("dataset_name", "held_out_name"):
        source = settings.get(name)
        if isinstance(source, str) and ":" in source and source not in _OURS and not is_local(source):
            found[name] = source
    scorers = settings.get("scorer") or []
    functions = [str(one) for one in ([scorers] if isinstance(scorers, str) else scorers)]
    functions = [one for one in functions if ":" in one and not one.startswith("regex:") and one not in _OURS]
    if functions:
        found["scorer"] = ", ".join(functions)
    if settings.get("trust_remote_code"):
        found["trust_remote_code"] = "the model's own code"
    # Such a name is a repository of compiled kernels.
    attention = str(settings.get("attn_implementation") or "")
    if "/" in attention:
        found["attn_implementation"] = attention
    options = as_mapping("model_init_kwargs", settings.get("model_init_kwargs")) or {}
    others = {name: value for name, value in options.items() if not _is_harmless(name, value)}
    if others:
        found["model_init_kwargs"] = ", ".join(f"{name}: {value}" for name, value in sorted(others.items()))
    config = settings.get("accelerate_config")
    if config and config not in accelerate_configs():
        found["accelerate_config"] = str(config)
    return found


def _is_harmless(name: str, value: Any) -> bool:
    if name == "use_safetensors":
        return value is True
    if name == "trust_remote_code":
        return not value
    return name in HARMLESS_MODEL_KWARGS and not (name == "attn_implementation" and "/" in str(value))


class TrustedRuns:
    """The code that this user has trusted on this machine: a file a run, by the run's identity.

    Args:
        folder: of the files, by default beside the Hub's cache. A file of another user counts as none; where none
            can be written, nothing is kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(constants.HF_HOME) / "spin_trl" / f"trusted-{os.getuid()}"

    def trusts(self, directory: Ownership, code: Code) -> bool:
        """Whether all of the code was trusted in this run."""
        known = self._known(_identity(directory))
        return known is not None and all(known.get(name) == what for name, what in code.items())

    def add(self, directory: Ownership, code: Code) -> None:
        """Remember that the code of a run is trusted."""
        if self.trusts(directory, code):
            return
        with contextlib.suppress(OSError):
            identity = directory.identify()
            if identity is not None and _IDENTITY.fullmatch(identity):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_json(self.folder / f"{identity}.json", {**(self._known(identity) or {}), **code})

    def _known(self, identity: str | None) -> dict[str, object] | None:
        if identity is None or not _IDENTITY.fullmatch(identity):
            return None
        path = self.folder / f"{identity}.json"
        try:
            found = read_json(path) if path.stat().st_uid == os.getuid() else None
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def _identity(directory: Ownership) -> str | None:
    marker = directory.marker()
    return marker.identity if marker is not None else None


def run_of_recipe(path: Path | None) -> Ownership | None:
    """The run in whose directory a recipe lies, or None.

    It counts as the run's also where the marker names another file: the marker came with the directory.
    """
    if path is None:
        return None
    ownership = Ownership(path.absolute().parent)
    return ownership if ownership.marker() is not None or ownership.has_begun() else None


def check_trust(directory: Ownership, code: Code, *, is_trusted: bool) -> None:
    """Refuse code that a run names, unless it was trusted here.

    Args:
        directory: of the run.
        code: that is needed and that the user has not named.
        is_trusted: the user says so now (`--trust_run`). It is remembered.

    Raises:
        RunDirectoryError: it was not trusted; the message has all of the code.
    """
    if not code:
        return
    runs = TrustedRuns()
    if is_trusted:
        runs.add(directory, code)
    elif not runs.trusts(directory, code):
        named = "\n".join(f"- {name}: {what}" for name, what in code.items())
        raise RunDirectoryError(
            f"The settings of the run in {directory.path} name code that this user has not run there on this machine. The "
            f"directory came from elsewhere, or was begun before that was kept:\n{named}\nLook at that code. `--trust_run` "
            "runs it, and so does your own recipe with the same settings."
        )


def check_trust_of_recipe(recipe: Recipe, overrides: Sequence[str], *, is_trusted: bool) -> None:
    """Refuse code that a recipe names, if it lies in a run directory, unless it was trusted here.

    Args:
        recipe: as it was read.
        overrides: command-line settings: what they name is the user's own.
        is_trusted: as in [`check_trust`].
    """
    owner = run_of_recipe(recipe.file)
    if owner is not None:
        code = named_code(recipe.settings())
        own = [name for name in code if is_overridden(name, overrides)]
        check_trust(owner, {name: what for name, what in code.items() if name not in own}, is_trusted=is_trusted)


def without_code(recipe: Recipe) -> None:
    """Take from a recipe what would run code when its model is looked at: for commands that only read a run."""
    recipe.args.trust_remote_code = False
    options = recipe.args.model_kwargs
    recipe.args.model_init_kwargs = {name: value for name, value in options.items() if _is_harmless(name, value)}
    if "/" in str(recipe.model.attn_implementation or ""):
        recipe.model.attn_implementation = None


def code_inside(directory: Ownership, code: Code) -> dict[str, str]:
    """Code of models that lies in a run directory itself, where the settings let it run."""
    if "trust_remote_code" not in code and "trust_remote_code" not in code.get("model_init_kwargs", ""):
        return {}
    files = sorted(str(path.relative_to(directory.path)) for path in directory.path.glob("**/model/*.py"))
    return {"trust_remote_code": f"the code in {', '.join(files)}"} if files else {}
