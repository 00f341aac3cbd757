"""Keeps a run directory on the Hub (`hub_backup`), and takes it back onto a machine that has lost it.

All of it lies on the branch `run` of the model's repository, one commit a state. The journal is read before the files are
listed, so that it never names work whose files are not there: what is on the branch is a state from which the run can go on.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import HubError
from ..files import JOURNAL
from ..run import checkpoint
from ..run.adapter_bases import follow
from ..run.contents import FILES, FOLDERS, files_in, is_kept_of_run
from ..run.directory import RunDirectory
from ..run.marker import MARKER, Marker
from ..run.stage import Stage
from .client import File, Hub

logger = logging.getLogger(__name__)

BRANCH = "run"
RESTORING = ".restoring.tmp"
"""Folder in the run directory into which is downloaded; what is there already is not downloaded again."""

SMALL = 1_000_000
"""Bytes up to which a file is read when it is listed: many small ones grow, and would be others when they are sent."""

State = tuple[bytes, dict[str, tuple[int, int]]]
"""The journal, and the size and time of every other file, by its path."""


class Keeper:
    """Sends a run directory's state to the Hub, what has changed of it.

    Args:
        directory: of the run.
        hub: to which.
        replaces: take the place of whatever is kept there: the run was begun anew on purpose.
    """

    def __init__(self, directory: RunDirectory, hub: Hub, *, replaces: bool = False) -> None:
        self._directory, self._hub, self._replaces = directory, hub, replaces
        self._sent: State = (b"", {})
        self._found: State = self._sent
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
        self._files()
        if self._found == self._sent:
            return False
        self._check_kept(repository, self._found[0])
        self._head = self._hub.push(repository, BRANCH, self._files, "The run as it is", outdated=("*",)).oid
        self._sent, self._replaces = self._found, False
        return True

    def _check_kept(self, repository: str, journal: bytes) -> None:
        """See to it that what is kept is an earlier state of this run.

        Another machine may have gone on from it, and a run that was begun without the Hub may have taken its name.
        """
        head = self._hub.head(repository, BRANCH)
        if head is None or head == self._head or self._replaces:
            return
        kept = self._hub.read(repository, BRANCH, JOURNAL)
        if kept is not None and not journal.startswith(kept):
            raise HubError(
                f"The run directory is not kept: the branch `{BRANCH}` of {repository} holds another run, or has gone on "
                f"from this one on another machine. To go on from what is kept, remove {self._directory.path}; to keep "
                "both, name another `hub_model_id`; to keep this one instead, delete that branch."
            )

    def _files(self) -> dict[str, File | None]:
        """Look at the journal first, then at all files; None stands for those that have been sent as they are."""
        journal = self._directory.journal.read_bytes()
        journal = journal[: journal.rfind(b"\n") + 1]
        state, found = {}, dict[str, File | None]()
        for path in kept_files_of_run(self._directory):
            name = self._directory.ownership.usual_name(path)
            try:
                seen = path.stat()
                grows = name.startswith("tensorboard/") or seen.st_size <= SMALL
                is_sent = self._sent[1].get(name) == (seen.st_size, seen.st_mtime_ns)
                found[name] = None if is_sent else path.read_bytes() if grows else path
                state[name] = (seen.st_size, seen.st_mtime_ns)
            except FileNotFoundError:  # it has gone since
                continue
        if self._directory.ownership.marker() is not None:
            found[MARKER] = _marker_of((*found, JOURNAL))
        self._found = (journal, state)
        return {**found, JOURNAL: journal}


def kept_files_of_run(directory: RunDirectory) -> Iterator[Path]:
    """The files of a run that are kept, but for its journal.

    They are those that a run consists of: no locks, nothing unfinished, no link, nothing of the user's, and of a training's
    checkpoints the newest that is complete.
    """
    ownership = directory.ownership
    marker = ownership.marker()
    for name in (*FILES, *FOLDERS, *map(Stage.of, directory.iterations())):
        if name == JOURNAL or (marker is not None and name not in marker.entries):
            continue
        place = ownership.place(name)
        for path in [place] if place.is_file() else files_in(place):
            if is_kept_of_run(ownership.usual_name(path), path) and _is_newest(path):
                yield path


def _marker_of(names: Iterable[str]) -> bytes:
    """The marker of a run directory that consists of these files and nothing else."""
    tops = sorted({name.partition("/")[0] for name in names})
    return (json.dumps(Marker({name: name for name in tops}).as_dict(), indent=2) + "\n").encode()


def _is_newest(path: Path) -> bool:
    """Whether a file belongs to no training checkpoint, or to the newest that is complete."""
    for folder in path.parents:
        if folder.parent.name == "train" and folder.name.startswith("checkpoint-"):
            return checkpoint.newest_complete(folder.parent) == folder
    return True


def restore(directory: RunDirectory, hub: Hub, repository: str) -> bool:
    """Take a run directory back from the Hub, if it is kept there. The journal comes last: without it nothing has begun.

    What a backup does not send is left: other files, links, and the marker, since whose files are whose is known here.

    Args:
        directory: of the run; it has no journal.
        hub: from which.
        repository: with its owner.

    Returns:
        Whether it was kept there.

    Raises:
        HubError: the Hub could not be asked, or the download broke off.
    """
    if hub.head(repository, BRANCH) is None:
        return False
    place = directory.own(RESTORING)
    hub.download(repository, BRANCH, place)
    if not (place / JOURNAL).is_file() or (place / JOURNAL).is_symlink():
        raise HubError(f"The branch `{BRANCH}` of {repository} holds no run: it has no {JOURNAL}.")
    found = {path.relative_to(place).as_posix(): path for path in files_in(place)}
    kept = {name: path for name, path in found.items() if name != JOURNAL and is_kept_of_run(name, path)}
    for name, path in kept.items():
        target = directory.own(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    follow(directory)
    (place / JOURNAL).replace(directory.own(JOURNAL))
    shutil.rmtree(place)
    return True
