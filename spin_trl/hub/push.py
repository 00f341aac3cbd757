"""Pushes a run to the Hub in the background while it plays: one thread, which nothing that fails in it can bring down.

The thread is told that something has finished, looks what is missing on the Hub, and pushes that. What fails is said in a
line, and tried again when something else has finished; at the end of the run it is waited for.
"""

from __future__ import annotations

import functools
import shlex
import threading
import warnings
from pathlib import Path
from typing import Self

from huggingface_hub import close_session
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from rich.console import Console

from ..errors import HubError
from ..quiet import quiet
from ..run.run import Run
from .backup import BRANCH, Keeper, restore
from .client import TALKATIVE, Hub, explain, harmless
from .publish import Publisher, privacy_of, targets_of

KEEPS_EVERY = 600.0
"""Seconds between two states of a run directory that are kept while a phase runs (`hub_backup`)."""


class Pushing:
    """The pushes of a run, as a context: at its end they are waited for, unless it is an interrupt.

    Args:
        run: the run.
        console: on which is said what was pushed, and what was not.
        active: whether this process pushes. If not, or if it is a smoke run, nothing here does anything.
    """

    def __init__(self, run: Run, console: Console, *, active: bool) -> None:
        self._run, self._console = run, console
        self._active = active and run.args.push_to_hub and not run.play.smoke
        self._stopped = threading.Event()
        self._wake, self._ending = threading.Event(), threading.Event()
        self._hub = Hub(self._stopped)
        self._publisher = Publisher(run, self._hub, self._say)
        anew = run.play.existing_run == "overwrite"
        self._keeper = Keeper(run.directory, self._hub, replaces=anew) if run.play.hub_backup else None
        self._upto = -1
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._work, name="spin-trl-pushing", daemon=True)
        self._had_bars = False

    def restore(self) -> None:
        """Take the run directory back from the Hub, if this machine has none and it is kept there.

        Raises:
            HubError: the Hub could not be asked. To begin anew then would be to overwrite what is kept.
        """
        if not self._is_possible() or self._keeper is None:
            return
        directory = self._run.directory
        if directory.journal.exists() or self._run.play.existing_run == "overwrite":
            return
        try:
            repository = str(targets_of(self._run, self._hub).model)
            if restore(directory, self._hub, repository):
                self._say(f"{directory.path} goes on from where it was kept: {repository}, branch {BRANCH}.")
                self._check_start()
        except HubError as error:
            raise HubError(
                f"{error} A run may be kept there (`hub_backup`), which a new one would overwrite. Try again, choose "
                "another `hub_model_id`, or play with `--hub_backup false`."
            ) from error

    def _check_start(self) -> None:
        """Say so if the start is a folder that is not here: it is not kept on the Hub."""
        model = self._run.model
        if model is not None and model.startswith(("/", ".", "~")) and not Path(model).is_dir():
            self._warn(f"The run began with the model in {model}, which is not kept on the Hub: put it there again.")

    def __enter__(self) -> Self:
        if self._is_possible():
            self._had_bars = not are_progress_bars_disabled()
            disable_progress_bars()  # they would tear the run's own display apart
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            self._thread.start()
        return self

    def finished(self, upto: int | None = None) -> None:
        """Something has finished.

        Args:
            upto: newest iteration that is done with, and may be pushed; None: no further one.
        """
        self._upto = self._upto if upto is None else upto
        self._wake.set()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._thread.is_alive():
            return
        try:
            if kind is None or issubclass(kind, Exception):
                self._wait()
            else:
                self._abandon()
        except KeyboardInterrupt:  # the run itself is over
            self._abandon()
            self._warn(f"Not waited for any longer. {self._again}")
        finally:
            if self._had_bars:
                enable_progress_bars()

    @property
    def _again(self) -> str:
        return f"`spin-trl push {shlex.quote(str(self._run.directory.path))}` pushes what is missing."

    def _is_possible(self) -> bool:
        """Whether there can be pushes at all; if not, that is said, once."""
        if not self._active:
            return False
        try:
            self._hub.check_access()
        except HubError as error:
            self._active = False
            self._warn(f"Nothing will be pushed to the Hub: {error} The run plays on. {self._again}")
        return self._active

    def _work(self) -> None:
        with quiet(*TALKATIVE):  # what came of it is said here
            while True:
                ending = self._ending.is_set()
                self._pass()
                if ending or self._stopped.is_set():
                    return
                self._wake.wait(KEEPS_EVERY if self._keeper is not None else None)
                self._wake.clear()

    def _pass(self) -> None:
        """Push what is missing, and keep the run directory; each is tried whatever became of the other."""
        failures = []
        for push in (functools.partial(self._publisher.push_missing, self._upto), self._keep):
            try:
                push()
            except HubError as error:
                failures.append(str(error))
            except Exception as error:  # a bug here, or a full disk, is no reason to lose a run
                failures.append(f"Could not push: {explain(error)}")
        found = " ".join(dict.fromkeys(failures)) or None
        if found is not None and found != self._failure and not self._stopped.is_set():
            self._warn(f"{harmless(found)} It is tried again when something else has finished.")
        self._failure = found

    def _keep(self) -> None:
        if self._keeper is None or not self._run.directory.journal.exists():
            return
        repository = str(targets_of(self._run, self._hub).model)
        self._hub.create(repository, "model", privacy_of(self._run))
        self._keeper.send(repository)

    def _wait(self) -> None:
        """Wait until the thread has looked once more, and has pushed what it found, or given up."""
        self._ending.set()
        self._wake.set()
        self._thread.join(1.0)
        if self._thread.is_alive():
            self._say("Waiting for what is still being pushed to the Hub. Ctrl-C leaves it.")
        while self._thread.is_alive():
            self._thread.join(0.2)  # in short steps, so that an interrupt gets through everywhere
        if self._failure is not None:
            self._warn(f"Not everything is on the Hub. {self._again}")

    def _abandon(self) -> None:
        """Let the thread end as soon as it can: its connections are cut, and there is no further attempt."""
        self._stopped.set()
        self._wake.set()
        close_session()

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, soft_wrap=True)

    def _warn(self, text: str) -> None:
        self._say(text, "yellow")
