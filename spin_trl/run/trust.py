"""The code that the settings of a run name, and whether this user has trusted it on this machine.

The author of a run directory controls everything in it, so trust is not recorded there: the marker contains only a random
name of the run (`identity`), and files of this user, next to the Hub's cache, list the code trusted under that name.
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
from ..config.engines import AUTO, VLLM
from ..config.judge import JUDGE_KEY_VARIABLE
from ..config.recipe import Recipe
from ..config.server import KEY_VARIABLE, RELOAD_COMMAND, SERVER
from ..config.shipped import accelerate_configs
from ..config.traits import HARMLESS_MODEL_KWARGS
from ..data.reading.local import is_local
from ..errors import RunDirectoryError
from ..evaluation.scoring import runs_generated_code
from ..files import read_json, write_json
from .ownership import Ownership

Code = Mapping[str, str]
"""Code named by settings, by the name of the setting."""

_OURS = (
    "spin_trl.data.published.mbpp:load_mbpp",
    "spin_trl.data.published.svamp:load_svamp",
    "spin_trl.data.published.svamp:load_svamp_sample",
    "spin_trl.sentences:load",
    "spin_trl.sentences:score",
)
"""Functions of this package that its own recipes name. Other names could reach anything that its modules import."""

_IDENTITY = re.compile("[0-9a-f]{32}")

CODE_OF_MODELS = frozenset({"attn_implementation", "model_init_kwargs", "trust_remote_code"})
"""Settings that name code that runs when a model is loaded."""


def named_code(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the code that settings name, by setting. This is the one list of the code that a recipe can run.

    Args:
        settings: settings of a recipe, by name.
    """
    found = {}
    for name in ("dataset_name", "held_out_name", "test_name", "retain_name", "dpo_name"):
        source = settings.get(name)
        if isinstance(source, str) and ":" in source and source not in _OURS and not is_local(source):
            found[name] = source
    for name in ("scorer", "retain_scorer"):
        scorers = settings.get(name) or []
        names = [str(one) for one in ([scorers] if isinstance(scorers, str) else scorers)]
        functions = [one for one in names if ":" in one and not one.startswith("regex:") and one not in _OURS]
        if functions:
            found[name] = ", ".join(functions)
        if settings.get("allow_generated_code") and any(map(runs_generated_code, names)):
            found["allow_generated_code"] = "the code that the model writes"
            if settings.get("allow_unisolated_code"):
                found["allow_unisolated_code"] = "that code without isolation from this machine"
    if settings.get("trust_remote_code"):
        found["trust_remote_code"] = "the model's own code"
    # A name with a slash is a repository of compiled kernels.
    attention = str(settings.get("attn_implementation") or "")
    if "/" in attention:
        found["attn_implementation"] = attention
    options = as_mapping("model_init_kwargs", settings.get("model_init_kwargs")) or {}
    others = {name: value for name, value in options.items() if not _is_harmless(name, value)}
    if others:
        found["model_init_kwargs"] = ", ".join(f"{name}: {value}" for name, value in sorted(others.items()))
    for name, default in (("vllm_command", ["vllm"]), ("vllm_args", [])):
        given = settings.get(name) or default
        if given != default and settings.get("engine") in (AUTO, VLLM):
            found[name] = given if isinstance(given, str) else " ".join(map(str, given))
    if settings.get("engine") == SERVER:
        found |= _named_of_servers(settings)
    if settings.get("judge_url"):  # decides where prompts, answers and a key are sent
        found["judge_url"] = str(settings["judge_url"])
        if settings.get("judge_key_variable") not in (None, JUDGE_KEY_VARIABLE):
            found["judge_key_variable"] = str(settings["judge_key_variable"])
    config = settings.get("accelerate_config")
    if config and config not in accelerate_configs():
        found["accelerate_config"] = str(config)
    return found


def _named_of_servers(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the command for servers that exist already, and what decides where prompts and a key are sent."""
    names = ["server_urls", "server_key_variable", "server_allow_plain_http"]
    names += ["server_reload_command"] if settings.get("server_reload") == RELOAD_COMMAND else []
    given = {name: settings.get(name) for name in names}
    text = {
        name: " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in given.items()
        if value
    }
    if text.get("server_key_variable") == KEY_VARIABLE:
        del text["server_key_variable"]
    return text


def _is_harmless(name: str, value: Any) -> bool:
    if name == "use_safetensors":
        return value is True
    if name == "trust_remote_code":
        return not value
    return name in HARMLESS_MODEL_KWARGS and not (name == "attn_implementation" and "/" in str(value))


class TrustedRuns:
    """The code that this user has trusted on this machine, in one file per run, named by the run's identity.

    Args:
        folder: folder of the files, by default next to the Hub's cache. Files owned by other users are ignored. If no file
            can be written, nothing is remembered.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(constants.HF_HOME) / "spin_trl" / f"trusted-{os.getuid()}"

    def trusts(self, directory: Ownership, code: Code) -> bool:
        """Return whether all of the code has been trusted in this run."""
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
    """Return the run whose directory contains a recipe, or None.

    The recipe counts as the run's even if the marker names another file, since the marker came with the directory.
    """
    if path is None:
        return None
    ownership = Ownership(path.absolute().parent)
    return ownership if ownership.marker() is not None or ownership.has_begun() else None


def check_trust(directory: Ownership, code: Code, *, is_trusted: bool) -> None:
    """Refuse code that a run names unless it has been trusted on this machine.

    Args:
        directory: run directory.
        code: code that is needed and that the user has not named.
        is_trusted: whether the user trusts it now (`--trust_run`), which is remembered.

    Raises:
        RunDirectoryError: if the code is not trusted; the message lists all of it.
    """
    if not code:
        return
    runs = TrustedRuns()
    if is_trusted:
        runs.add(directory, code)
    elif not runs.trusts(directory, code):
        named = "\n".join(f"- {name}: {what}" for name, what in code.items())
        raise RunDirectoryError(
            f"The settings of the run in {directory.path} name code that you have not yet trusted on this machine: the "
            f"directory came from elsewhere or was created before trust was recorded.\n{named}\nReview that code. To run "
            "it, pass `--trust_run`, or use your own recipe with the same settings."
        )


def check_trust_of_recipe(recipe: Recipe, overrides: Sequence[str], *, is_trusted: bool) -> None:
    """Refuse code that a recipe in a run directory names unless it has been trusted on this machine.

    Args:
        recipe: recipe as it was read.
        overrides: command-line settings; code that they name is the user's own.
        is_trusted: as in [`check_trust`].
    """
    owner = run_of_recipe(recipe.file)
    if owner is not None:
        code = named_code(recipe.settings())
        own = [name for name in code if is_overridden(name, overrides)]
        check_trust(owner, {name: what for name, what in code.items() if name not in own}, is_trusted=is_trusted)


def without_code(recipe: Recipe) -> None:
    """Remove the settings of a recipe that would run code on loading its model, for commands that only read a run.

    Its command of vLLM, which `engine: auto` asks for its version, becomes the default.
    """
    recipe.args.trust_remote_code = False
    recipe.play.vllm_command = ["vllm"]
    options = recipe.args.model_kwargs
    recipe.args.model_init_kwargs = {name: value for name, value in options.items() if _is_harmless(name, value)}
    if "/" in str(recipe.model.attn_implementation or ""):
        recipe.model.attn_implementation = None


def code_inside(directory: Ownership, code: Code) -> dict[str, str]:
    """Return the code of models inside a run directory, if the settings allow it to run."""
    if "trust_remote_code" not in code and "trust_remote_code" not in code.get("model_init_kwargs", ""):
        return {}
    files = sorted(str(path.relative_to(directory.path)) for path in directory.path.glob("**/model/*.py"))
    return {"trust_remote_code": f"the code in {', '.join(files)}"} if files else {}
