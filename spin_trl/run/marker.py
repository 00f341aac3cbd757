"""The marker of a run directory, `.spin_trl.json`: which entries are the run's, and what is known of where they are."""

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
"""Whose a marker is."""


@dataclass(frozen=True)
class Marker:
    """What a run directory's marker says.

    Attributes:
        entries: names of what the run owns: the usual ones, and those that the entries have here.
        adopted: usual names of entries that were there when a run of version 0.1.0, which has no marker, was continued.
        paths_from: folder from which relative paths in the run's settings are seen, relative to the run directory.
        kind: whose marker it is: a run's, or a comparison's.
        places: absolute paths at which the directory has been, the newest last. Empty for a run of an earlier version, and
            for one that was taken back from the Hub.
        start_files: sizes and times of the weights of a start that lies elsewhere, as they were last seen; None: nobody has.
        identity: random name of the run, by which this user's machine knows it again. Backups and older markers have none.
    """

    entries: dict[str, str] = field(default_factory=dict)
    adopted: frozenset[str] = frozenset()
    paths_from: str | None = None
    kind: str = RUN
    places: tuple[str, ...] = ()
    identity: str | None = None
    start_files: Mapping[str, Sequence[int]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The marker as JSON can hold it, with a checksum of its own."""
        found = {
            "about": f"The {self.kind} owns these entries of its directory; everything else is yours, and stays.",
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
    """The marker in a file, or None: there is no such file.

    Raises:
        RunDirectoryError: it can't be read, or is not what was written.
    """
    try:
        # Opened at every call: file systems of a network look for a newer file only then.
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if not isinstance(error, PermissionError) and not os.path.lexists(path):
            return None  # nothing can be at such a path: it is too long, or leads through a file
        raise _unreadable(path, error) from error
    try:
        found = parse_json(text)
        if not isinstance(found, dict) or not isinstance(found.get("entries"), dict):
            raise ValueError("it names no entries of a run directory")
        entries = {str(name): str(here) for name, here in found["entries"].items()}
        if any(here != os.path.basename(here) or here in ("", ".", "..") for here in entries.values()):
            raise ValueError("an entry leads out of the run directory")
        known = found.pop(_CHECKSUM, None)  # version 0.1.0 had no marker; others may have been written by hand
        if known is not None and known != json_digest(found):
            raise ValueError("it is not what was written")
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
        f"{path}, which says what in this folder belongs to the run, can't be read: {error!r}. Restore it, or use another "
        "`run_dir`."
    )
