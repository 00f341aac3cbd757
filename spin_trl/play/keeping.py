"""Keeps a run directory on the Hub (`hub_backup`), and takes it back onto a machine that has lost it.

All of it lies on the branch `run` of the model's repository, one commit a state. The journal is read before the files are
listed, so that it never names work whose files are not there: what is on the branch is a state from which the run can go on.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .. import checkpoint
from ..errors import HubError
from ..hub.client import File, Hub
from .directory import START, RunDirectory

logger = logging.getLogger(__name__)

BRANCH = "run"
RESTORING = ".restoring.tmp"
"""Folder in the run directory into which is downloaded; what is there already is not downloaded again."""

SMALL = 1_000_000
"""Bytes up to which a file is read when it is listed: many small ones grow, and would be others when they are sent."""

_TOP = ("recipe.yaml", "best.json", "table.txt", "plot.png", "report.html")
_FOLDERS = ("data", START, "baseline", "tensorboard", "hub")

State = dict[str, tuple[int, int]]
"""Size and time of every file that has been sent, by its path."""


class Keeper:
    """Sends a run directory's state to the Hub, what has changed of it.

    Args:
        directory: of the run.
        hub: to which.
        replaces: take the place of whatever is kept there: the run was begun anew on purpose.
    """

    def __init__(self, directory: RunDirectory, hub: Hub, *, replaces: bool = False) -> None:
        self._directory, self._hub, self._replaces = directory, hub, replaces
        self._sent: State = {}
        self._journal = b""
        self._head: str | None = None

    def send(self, repository: str) -> bool:
        """Send the state as it is, unless it is there.

        Args:
            repository: with its owner; it must be there.

        Returns:
            Whether there was anything to send.

        Raises:
            HubError: it could not be sent, or what is kept there is no earlier state of this run.
        """
        if not self._directory.journal.exists():
            return False
        state: State = {}
        journal = b""
        found: dict[str, File | None] = {}

        def files() -> dict[str, File | None]:
            nonlocal state, journal, found
            journal, state, found = self._files()
            return found

        files()
        if journal == self._journal and state == self._sent:
            return False
        self._check_kept(repository, journal)
        self._head = self._hub.push(repository, BRANCH, files, "The run as it is", outdated=("*",)).oid
        self._journal, self._sent, self._replaces = journal, state, False
        return True

    def _check_kept(self, repository: str, journal: bytes) -> None:
        """See to it that what is kept is an earlier state of this run.

        Another machine may have gone on from it, and a run that was begun without the Hub may have taken its name.
        """
        head = self._hub.head(repository, BRANCH)
        if head is None or head == self._head or self._replaces:
            return
        kept = self._hub.read(repository, BRANCH, self._directory.journal.name)
        if kept is not None and not journal.startswith(kept):
            raise HubError(
                f"The run directory is not kept: the branch `{BRANCH}` of {repository} holds another run, or has gone on "
                f"from this one on another machine. To go on from what is kept, remove {self._directory.path}; to keep "
                "both, name another `hub_model_id`; to keep this one instead, delete that branch."
            )

    def _files(self) -> tuple[bytes, State, dict[str, File | None]]:
        """The journal first, then all files; None for those that have been sent as they are."""
        journal = self._directory.journal.read_bytes()
        journal = journal[: journal.rfind(b"\n") + 1]
        state: State = {}
        found: dict[str, File | None] = {}
        for path in kept_files(self._directory):
            name = path.relative_to(self._directory.path).as_posix()
            try:
                seen = path.stat()
                state[name] = (seen.st_size, seen.st_mtime_ns)
                if self._sent.get(name) == state[name]:
                    found[name] = None
                else:
                    grows = name.startswith(f"{self._directory.tensorboard.name}/")
                    found[name] = path.read_bytes() if grows or seen.st_size <= SMALL else path
            except FileNotFoundError:  # it has gone since
                state.pop(name, None)
                found.pop(name, None)
        found[self._directory.journal.name] = journal
        return journal, state, found


def kept_files(directory: RunDirectory) -> Iterator[Path]:
    """The files of a run directory that are kept: no locks, nothing unfinished, no link, and of a training's checkpoints
    the newest that is complete."""
    for name in _TOP:
        if (directory.path / name).is_file():
            yield directory.path / name
    folders = [directory.path / name for name in _FOLDERS]
    for folder in [*folders, *sorted(directory.path.glob("iteration-*"))]:
        yield from _within(folder)


def _within(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir() and entry.name == "train" and folder.name.startswith(("iteration-", START)):
            newest = checkpoint.newest_complete(path)
            if newest is not None:
                yield from checkpoint.kept_files(newest)
        elif entry.is_dir():
            yield from _within(path)
        elif entry.is_file() and (folder.name != "model" or checkpoint.is_of_a_model(path)):
            yield path


def restore(directory: RunDirectory, hub: Hub, repository: str) -> bool:
    """Take a run directory back from the Hub, if it is kept there. The journal comes last: without it nothing has begun.

    Args:
        directory: of the run; it has no journal.
        hub: from which.
        repository: with its owner.

    Returns:
        Whether it was kept there.

    Raises:
        HubError: the Hub could not be asked, or the download broke off.
    """
    if not hub.has_branch(repository, BRANCH):
        return False
    place = directory.path / RESTORING
    hub.download(repository, BRANCH, place)
    if not (place / directory.journal.name).is_file():
        raise HubError(f"The branch `{BRANCH}` of {repository} holds no run: it has no {directory.journal.name}.")
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place)
        # Version 0.1.0 kept Trainer's arguments, too.
        left_out = name.parts[0].startswith(".") or name.name in (
            directory.journal.name,
            checkpoint.TRAINERS_ARGUMENTS,
        )
        if path.is_file() and not left_out:
            target = directory.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    _repoint(directory)
    (place / directory.journal.name).replace(directory.journal)
    shutil.rmtree(place)
    return True


def _repoint(directory: RunDirectory) -> None:
    """Let adapters on the run's own start find it where it is now."""
    own = directory.model(START)
    if not own.is_dir():
        return
    for path in directory.path.glob("**/model/adapter_config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        base = Path(str(config.get("base_model_name_or_path")))
        if base.parts[-2:] == own.parts[-2:] and not base.is_dir():
            config["base_model_name_or_path"] = str(own)
            path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
