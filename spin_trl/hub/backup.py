"""Backs up a run directory to the Hub (`hub_backup`), and restores it on a machine that no longer has it.

The backup is on the branch `run` of the model's repository, one commit per state. The journal is read before the files are
listed, so it never names work whose files are missing: the run can resume from any state on the branch.
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
"""Folder in the run directory to download into; files that it already holds are not downloaded again."""

SMALL = 1_000_000
"""Maximum size in bytes of files that are read when listed: many small files grow, and would have changed when sent."""

State = tuple[bytes, dict[str, tuple[int, int]]]
"""The journal, and the size and modification time (ns) of every other file by path."""


class Keeper:
    """Sends a run directory's state to the Hub; only files that have changed are uploaded.

    Args:
        directory: run directory to back up.
        hub: Hub to send it to.
        replaces: whether to replace an existing backup, because the run was deliberately started again.
    """

    def __init__(self, directory: RunDirectory, hub: Hub, *, replaces: bool = False) -> None:
        self._directory, self._hub, self._replaces = directory, hub, replaces
        self._sent: State = (b"", {})
        self._found: State = self._sent
        self._head: str | None = None

    def send(self, repository: str) -> bool:
        """Send the current state, unless it was already sent.

        Args:
            repository: full name of the repository, which must exist.

        Returns:
            Whether there was anything to send.

        Raises:
            HubError: if sending failed, or the existing backup is not an earlier state of this run.
        """
        if not self._directory.journal.exists():
            return False
        self._files()
        if self._found == self._sent:
            return False
        self._check_kept(repository, self._found[0])
        self._head = self._hub.push(repository, BRANCH, self._files, "Current state of the run", outdated=("*",)).oid
        self._sent, self._replaces = self._found, False
        return True

    def _check_kept(self, repository: str, journal: bytes) -> None:
        """Raise if the existing backup is not an earlier state of this run.

        The run may have been resumed on another machine, or the backup may belong to another run of the same name.
        """
        head = self._hub.head(repository, BRANCH)
        if head is None or head == self._head or self._replaces:
            return
        kept = self._hub.read(repository, BRANCH, JOURNAL)
        if kept is not None and not journal.startswith(kept):
            raise HubError(
                f"The run directory is not backed up: the branch `{BRANCH}` of {repository} holds another run, or this run "
                f"was resumed on another machine. To resume from the backup, remove {self._directory.path}; to keep both, "
                "set another `hub_model_id`; to keep this run instead, delete that branch."
            )

    def _files(self) -> dict[str, File | None]:
        """Read the journal first, then list all files; None stands for a file that was already sent unchanged."""
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
            except FileNotFoundError:  # removed in the meantime
                continue
        if self._directory.ownership.marker() is not None:
            found[MARKER] = _marker_of((*found, JOURNAL))
        self._found = (journal, state)
        return {**found, JOURNAL: journal}


def kept_files_of_run(directory: RunDirectory) -> Iterator[Path]:
    """Yield the files of a run that are backed up, except its journal.

    These are the files that belong to the run: no locks, unfinished files, links or files of the user's. Of a training's
    checkpoints, only the newest complete one is included.
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
    """Return the marker of a run directory that consists of exactly these files."""
    tops = sorted({name.partition("/")[0] for name in names})
    return (json.dumps(Marker({name: name for name in tops}).as_dict(), indent=2) + "\n").encode()


def _is_newest(path: Path) -> bool:
    """Return whether a file is outside training checkpoints, or in the newest complete one."""
    for folder in path.parents:
        if folder.parent.name == "train" and folder.name.startswith("checkpoint-"):
            return checkpoint.newest_complete(folder.parent) == folder
    return True


def restore(directory: RunDirectory, hub: Hub, repository: str) -> bool:
    """Restore a run directory from its backup on the Hub, if any. The journal comes last: without it, no run has started.

    Anything that a backup does not send is not restored: other files, links, and the marker, because ownership of files
    is determined locally.

    Args:
        directory: run directory without a journal.
        hub: Hub to restore from.
        repository: full name of the repository.

    Returns:
        Whether there was a backup.

    Raises:
        HubError: if the Hub could not be reached, the download failed, or the branch holds no run.
    """
    if hub.head(repository, BRANCH) is None:
        return False
    place = directory.own(RESTORING)
    hub.download(repository, BRANCH, place)
    if not (place / JOURNAL).is_file() or (place / JOURNAL).is_symlink():
        raise HubError(f"The branch `{BRANCH}` of {repository} does not hold a run: it has no {JOURNAL}.")
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
