"""The marker of a run directory, `.spin_trl.json`: which entries belong to the run, and where they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError
from ..files import RUN_MARKER, json_digest, parse_json

MARKER = RUN_MARKER
MARKER_VERSION = 1
_CHECKSUM = "checksum"

RUN, COMPARISON = "run", "comparison"
"""Kinds of markers: of a run, or of a comparison."""


@dataclass(frozen=True)
class Marker:
    """The contents of a run directory's marker.

    Attributes:
        entries: actual names of the entries that the run owns, by their usual names.
        adopted: usual names of the entries that existed when a run of version 0.1.0, which has no marker, was resumed.
        paths_from: folder that relative paths in the run's settings refer to, relative to the run directory.
        kind: kind of the marker: of a run, or of a comparison.
        places: absolute paths that the directory has had, newest last. Empty for a run of an earlier version, and for one
            that was restored from the Hub.
        start_files: last seen sizes and modification times of the weights of a start outside the run directory; None if
            never recorded.
        identity: random name of the run, by which this user's machine recognises it. Backups and older markers have none.
    """

    entries: dict[str, str] = field(default_factory=dict)
    adopted: frozenset[str] = frozenset()
    paths_from: str | None = None
    kind: str = RUN
    places: tuple[str, ...] = ()
    identity: str | None = None
    start_files: Mapping[str, Sequence[int]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the marker as JSON data, with its own checksum."""
        found = {
            "about": f"The {self.kind} owns these entries of its directory. Everything else is yours and is never changed.",
            "kind": self.kind,
            "version": MARKER_VERSION,
            "entries": self.entries,
            "adopted": sorted(self.adopted),
            "paths_from": self.paths_from,
            **({"places": list(self.places)} if self.places else {}),
            **({"identity": self.identity} if self.identity is not None else {}),
            **({"start_files": self.start_files} if self.start_files is not None else {}),
        }
        return {**found, _CHECKSUM: json_digest(found)}


def read_marker(path: Path) -> Marker | None:
    """Read the marker in a file; None if there is no such file.

    Raises:
        RunDirectoryError: if it can't be read, or has changed since it was written.
    """
    try:
        # Opened at every call: network file systems check for a newer file only on opening.
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if not isinstance(error, PermissionError) and not os.path.lexists(path):
            return None  # nothing can exist at such a path: it is too long, or leads through a file
        raise _unreadable(path, error) from error
    try:
        found = parse_json(text)
        if not isinstance(found, dict) or not isinstance(found.get("entries"), dict):
            raise ValueError("it lists no entries of a run directory")
        entries = {str(name): str(here) for name, here in found["entries"].items()}
        if any(here != os.path.basename(here) or here in ("", ".", "..") for here in entries.values()):
            raise ValueError("an entry points outside the run directory")
        known = found.pop(_CHECKSUM, None)  # None: the marker may have been written by hand
        if known is not None and known != json_digest(found):
            raise ValueError("it has changed since it was written")
        identity, start_files = found.get("identity"), found.get("start_files")
        return Marker(
            entries,
            frozenset(found.get("adopted", ())),
            found.get("paths_from"),
            found.get("kind", RUN),
            tuple(map(str, found.get("places", ()))),
            identity if isinstance(identity, str) else None,
            start_files if isinstance(start_files, dict) else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path}, which lists what belongs to the run in this folder, can't be read: {error!r}. Restore it, or use another "
        "`run_dir`."
    )
