"""Settles which engine a run generates with: the one that it was begun with, unless its settings name another one.

`engine: auto` chooses when the run begins. The choice is frozen in the recipe, so that vLLM's installation or removal in the
meantime changes nothing. What another engine has generated is final, so the engine may change wherever no generation has
been begun and not finished.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedConfig

from ..config.engines import AUTO, TRANSFORMERS
from ..errors import GenerationsError, RunDirectoryError
from ..generation.store import STORE_MANIFEST, GenerationStore
from ..generation.vllm.choice import EngineChoice, answered_version, choose_engine
from ..run.run import Run
from ..run.settings import kept_engine
from .answering.served import to_serve
from .rehearse import config_of


class SettledEngine:
    """The engine of a run. Every call of [`SettledEngine.settle`] gives the same one.

    Args:
        run: the run, whose `args.engine` is set.
        settings: its settings as a recipe, in which the engine is set, too.
        is_named: whether its settings name an engine, and do not just have the default.
    """

    def __init__(self, run: Run, settings: dict[str, Any], *, is_named: bool) -> None:
        self._run, self._settings, self._asked = run, settings, run.args.engine
        self._is_named = is_named and self._asked != AUTO
        self.asked = frozenset({"vllm_unquantised_base", *(["engine"] if self._is_named else [])})
        """Settings that the user may change in a run that has begun."""

    def settle(self) -> str:
        """Set the engine. Return a line to print if it has just been chosen or changed; otherwise an empty text.

        Raises:
            RunDirectoryError: if another engine than the one named has begun to answer and has not finished.
        """
        run = self._run
        before = kept_engine(run.directory, run.play.existing_run)
        engine, line = self._asked, ""
        if engine == AUTO and before is not None:
            engine = before
        elif engine == AUTO:
            choice = self._chosen(config_of(run))
            engine, line = choice.engine, str(choice)
        elif self._is_named and before not in (None, engine):
            for folder in _unfinished(run, engine):
                raise RunDirectoryError(
                    f"`engine` is {engine}, but {before} has answered a part of the prompts in {folder}. Go on with "
                    f"`engine: {before}` until that is finished, or delete the folder."
                )
            line = f"The engine is {engine} from now on. What {before} has generated stays."
            self.asked |= {"generation_continuous"}  # only `transformers` can have it
        if run.args.engine != engine:  # the caller's settings are not changed
            run.args = copy.copy(run.args)
            run.args.engine = engine
        self._settings.pop("engine", None)
        if engine != TRANSFORMERS:
            self._settings["engine"] = engine
        return line

    def _chosen(self, config: PreTrainedConfig | None) -> EngineChoice:
        return choose_engine(to_serve(self._run, config), self._run.play.vllm_command, _version_for_all)


def _version_for_all(command: tuple[str, ...]) -> str | None:
    """Return vLLM's version according to the main process, so that all processes choose the same engine."""
    state = PartialState()
    found = [answered_version(command) if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _unfinished(run: Run, engine: str) -> Iterator[Path]:
    """Yield the stores that another engine has begun and not finished."""
    for stage in run.directory.stages():
        for manifest in run.directory.stage(stage).rglob(STORE_MANIFEST):
            store = GenerationStore(manifest.parent)
            with contextlib.suppress(GenerationsError):  # what is damaged is generated again
                if store.manifest()["engine"] != engine and not store.is_complete():
                    yield store.folder
