"""Pushes a run to the Hub in the background while it plays, from one thread that survives any failure.

The thread is woken when something has finished, determines what is missing on the Hub, and pushes it. A failure is reported
in one line and retried when something else has finished; at the end, the run waits for the thread.
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
from ..report import terminal
from ..run.run import Run
from .backup import BRANCH, Keeper, restore
from .client import TALKATIVE, Hub, explain, harmless
from .publish import Publisher, privacy_of, targets_of

KEEPS_EVERY = 600.0
"""Seconds between two backups of the run directory while a phase runs (`hub_backup`)."""


class Pushing:
    """Context manager for a run's pushes: on exit it waits for them, unless the run was interrupted.

    Args:
        run: run to push.
        console: console for messages about finished and failed pushes.
        active: whether this process pushes. If not, or in a smoke run, all methods do nothing.
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
        """Restore the run directory from the Hub, if this machine has none and there is a backup.

        Raises:
            HubError: if the Hub could not be reached. Starting a new run then could overwrite the backup.
        """
        if not self._is_possible() or self._keeper is None:
            return
        directory = self._run.directory
        if directory.journal.exists() or self._run.play.existing_run == "overwrite":
            return
        try:
            repository = str(targets_of(self._run, self._hub).model)
            if restore(directory, self._hub, repository):
                self._say(f"{directory.path} was restored from {repository}, branch {BRANCH}, and resumes from there.")
                self._check_start()
        except HubError as error:
            raise HubError(
                f"{error} There may be a backup there (`hub_backup`), which a new run would overwrite. Try again, choose "
                "another `hub_model_id`, or pass `--hub_backup false`."
            ) from error

    def _check_start(self) -> None:
        """Warn if the start is a local folder that is missing: it is not part of the backup."""
        model = self._run.model
        if model is not None and model.startswith(("/", ".", "~")) and not Path(model).is_dir():
            self._warn(
                f"The run started from the model in {model}, which is not part of the backup: copy it there again."
            )

    def __enter__(self) -> Self:
        if self._is_possible():
            self._had_bars = not are_progress_bars_disabled()
            disable_progress_bars()  # they would break up the run's own display
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            self._thread.start()
        return self

    def finished(self, upto: int | None = None) -> None:
        """Tell the thread that something has finished.

        Args:
            upto: newest iteration that is finished and may be pushed; None if no further iteration has finished.
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
            self._warn(f"Stopped waiting for the pushes. {self._again}")
        finally:
            if self._had_bars:
                enable_progress_bars()

    @property
    def _again(self) -> str:
        return f"`spin-trl push {shlex.quote(str(self._run.directory.path))}` pushes the rest."

    def _is_possible(self) -> bool:
        """Return whether pushing is possible; if not, warn once."""
        if not self._active:
            return False
        try:
            self._hub.check_access()
        except HubError as error:
            self._active = False
            self._warn(f"Nothing will be pushed to the Hub: {error} The run continues. {self._again}")
        return self._active

    def _work(self) -> None:
        with quiet(*TALKATIVE):  # failures are reported here instead
            while True:
                ending = self._ending.is_set()
                self._pass()
                if ending or self._stopped.is_set():
                    return
                self._wake.wait(KEEPS_EVERY if self._keeper is not None else None)
                self._wake.clear()

    def _pass(self) -> None:
        """Push what is missing and back up the run directory; each is attempted even if the other fails."""
        failures = []
        for push in (functools.partial(self._publisher.push_missing, self._upto), self._keep):
            try:
                push()
            except HubError as error:
                failures.append(str(error))
            except Exception as error:  # a bug here or a full disk must not end the run
                failures.append(f"Could not push: {explain(error)}")
        found = " ".join(dict.fromkeys(failures)) or None
        if found is not None and found != self._failure and not self._stopped.is_set():
            self._warn(f"{harmless(found)} Will retry when something else has finished.")
        self._failure = found

    def _keep(self) -> None:
        if self._keeper is None or not self._run.directory.journal.exists():
            return
        repository = str(targets_of(self._run, self._hub).model)
        self._hub.create(repository, "model", privacy_of(self._run))
        self._keeper.send(repository)

    def _wait(self) -> None:
        """Wait until the thread has checked once more, and has pushed everything missing or given up."""
        self._ending.set()
        self._wake.set()
        self._thread.join(1.0)
        if self._thread.is_alive():
            self._say("Waiting for pushes to the Hub to finish. Press Ctrl-C to stop waiting.")
        while self._thread.is_alive():
            self._thread.join(0.2)  # in short steps, so that an interrupt gets through everywhere
        if self._failure is not None:
            self._warn(f"Not everything is on the Hub. {self._again}")

    def _abandon(self) -> None:
        """Make the thread end as soon as possible: close its connections and stop retrying."""
        self._stopped.set()
        self._wake.set()
        close_session()

    def _say(self, text: str, style: str | None = None) -> None:
        terminal.tell(self._console, text, style)

    def _warn(self, text: str) -> None:
        self._say(text, "yellow")
