"""Whose the entries of a run directory are: a marker names those of the run, each before it is created.

Everything else in the directory is the user's: it is never written to, and never removed. Where the user has put something
under a name that the run needs, the run's own entry gets another name.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..config.yaml_text import parse_yaml
from ..errors import RunDirectoryError
from ..files import JOURNAL, remove, says_prepared, write_json, write_text
from ..json_lines import lock_file
from .contents import ITERATION, LINK, foreign_files, is_top_entry
from .marker import MARKER, RUN, Marker, read_marker
from .possible_path import check_path, refusing_path

RECIPE = "recipe.yaml"

HARMLESS = ("*.out", "*.err", "*.log")
"""Files that may lie in the folder of a new run: schedulers and shells put them there before it starts."""

SHOWN_NAMES = 5
"""Names that a message repeats."""


class Ownership:
    """Which entries of a directory belong to the run in it.

    Args:
        path: of the directory; it need not exist yet.
        kind: what is in it: a run, or a comparison of runs.
    """

    def __init__(self, path: Path, kind: str = RUN) -> None:
        self.path, self.kind = path, kind
        self.marker_path = path / MARKER

    def marker(self) -> Marker | None:
        """The directory's marker, or None.

        Raises:
            RunDirectoryError: it can't be read.
        """
        return read_marker(self.marker_path)

    def is_earlier_run(self) -> bool:
        """Whether the directory holds a run of version 0.1.0: there is no marker, but its journal says what was prepared."""
        return self.marker() is None and self.has_begun()

    def holds_run(self) -> bool:
        """Whether the directory belongs to a run, or to a comparison if that is what this is about."""
        marker = self.marker()
        return self.has_begun() if marker is None else marker.kind == self.kind

    # ---- places -------------------------------------------------------------------------------------------------------

    def place(self, name: str) -> Path:
        """Where an entry of the run is, or would be: another place than usual if something of the user's is there."""
        marker = self.marker()
        if marker is None:
            return self.path / name
        return self.path / (marker.entries.get(name) or self._free_name(name))

    def usual_name(self, path: Path) -> str:
        """The path, with `/`, that something in the directory has in a run directory without anything of the user's."""
        here, *below = path.relative_to(self.path).parts
        names = {there: name for name, there in (self.marker() or Marker()).entries.items()}
        return Path(names.get(here, here), *below).as_posix()

    def own(self, name: str) -> Path:
        """Write down that an entry belongs to the run, before it is created.

        Args:
            name: its usual name.

        Returns:
            Where it is to be created, or is. Without a marker nothing is written down, and it has its usual place.

        Raises:
            OSError: the marker can't be written.
        """
        marker = self.marker()
        if marker is None:
            return self.path / name
        if name not in marker.entries:
            with self._alone():
                marker = self.marker() or Marker()
                if name not in marker.entries:
                    marker.entries[name] = self._free_name(name)
                    self._write(marker)
        return self.path / marker.entries[name]

    def iterations(self) -> Iterator[int]:
        """Numbers of the iterations that have a folder, in order."""
        marker = self.marker()
        if marker is not None:
            names: Collection[str] = [name for name, here in marker.entries.items() if (self.path / here).is_dir()]
        else:
            names = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        yield from sorted(int(found[1]) for name in names if (found := ITERATION.fullmatch(name)))

    def see_paths_from(self, folder: Path) -> None:
        """Write down from which folder relative paths in the run's settings are seen."""
        marker = self.marker()
        if marker is not None:
            paths_from = os.path.relpath(folder.resolve(), self.path.resolve())
            if paths_from != marker.paths_from:
                with self._alone():
                    self._write(replace(self.marker() or Marker(), paths_from=paths_from))

    def paths_from(self) -> Path | None:
        """The folder from which relative paths in the run's settings are seen, or None if nobody knows."""
        marker = self.marker()
        if marker is None or marker.paths_from is None:
            return None
        return (self.path.resolve() / marker.paths_from).resolve()

    def former_place(self) -> Path | None:
        """Where the directory was when it was last written to, if that is not where it is now."""
        marker = self.marker()
        if marker is None or not marker.places or marker.places[-1] == str(self.path.resolve()):
            return None
        return Path(marker.places[-1])

    def note_place(self) -> Path | None:
        """Write down where the directory is. Returns [`Ownership.former_place`].

        Raises:
            OSError: the marker can't be written.
        """
        before, here, marker = self.former_place(), str(self.path.resolve()), self.marker()
        if marker is not None and marker.places[-1:] != (here,):
            with self._alone():
                now = self.marker() or Marker()
                self._write(replace(now, places=(*(place for place in now.places if place != here), here)))
        return before

    def start_files(self) -> Mapping[str, Sequence[int]] | None:
        """Sizes and times of the weights that the run began with, as they were last seen; None: nobody has."""
        marker = self.marker()
        return None if marker is None else marker.start_files

    def see_start(self, files: Mapping[str, Sequence[int]] | None) -> None:
        """Write down sizes and times of the weights that the run began with; None: they are in no folder.

        Raises:
            OSError: the marker can't be written.
        """
        marker = self.marker()
        if marker is not None and marker.start_files != files:
            with self._alone():
                self._write(replace(self.marker() or Marker(), start_files=files))

    def identify(self) -> str | None:
        """The run's random name, which it gets now if it has none; None: there is no marker."""
        marker = self.marker()
        if marker is not None and marker.identity is None:
            with self._alone():
                marker = self.marker() or Marker()
                if marker.identity is None:
                    marker = replace(marker, identity=secrets.token_hex(16))
                    self._write(marker)
        return marker.identity if marker is not None else None

    # ---- claiming -----------------------------------------------------------------------------------------------------

    def check(self, recipe: Path | None = None) -> None:
        """Raise if a run can neither go on in the directory nor begin there.

        Args:
            recipe: file that the run is started from; it may lie in the directory.

        Raises:
            RunDirectoryError: it holds files of the user's; the message names them and a folder that is free. Or it can be
                no run directory at all ([`possible_path.check_path`]).
        """
        check_path(self.path)
        marker = self.marker()
        if marker is not None and marker.kind != self.kind:
            raise RunDirectoryError(
                f"{self.path} holds a {marker.kind}. Use another `run_dir` for the {self.kind}, like {self._free_folder()}."
            )
        if self.holds_run():
            return
        owner = self._run_around()
        if owner is not None:
            raise RunDirectoryError(
                f"{self.path} lies in a folder of the run in {owner}, and would be removed with it. Use another `run_dir`, "
                f"like {owner.with_name(f'{owner.name}-2')}."
            )
        found = self._in_the_way(recipe)
        if found:
            raise RunDirectoryError(
                f"{self.path} holds files that belong to no {self.kind}: {_first_names(found)}. "
                f"A {self.kind} begins in a folder that is empty, but for its recipe, hidden files and logs. "
                f"Use another `run_dir`, like {self._free_folder()}."
            )

    def claim(self, recipe: Path | None = None, earlier: Collection[str] = ()) -> None:
        """Make the directory that of a run: a new one, or one of version 0.1.0, or the one that is there.

        Args:
            recipe: as in [`Ownership.check`].
            earlier: names of entries that version 0.1.0 has written, where no journal says so.

        Raises:
            RunDirectoryError: as in [`Ownership.check`].
        """
        if earlier and self.marker() is None:
            self._create(Marker({name: name for name in earlier}, frozenset(earlier), kind=self.kind))
        self.check(recipe)
        if self.marker() is not None:
            return
        if self.has_begun():
            self._adopt()
            return
        with refusing_path(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._create(Marker(kind=self.kind))

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove what belongs to the run, and nothing else. Of links only they themselves are removed.

        Args:
            keep: usual names of entries that stay.

        Raises:
            RunDirectoryError: nothing says what belongs to the run, or a run of version 0.1.0 has a file of the user's in
                one of its folders.
        """
        if self.is_earlier_run():
            self._adopt()
        marker = self.marker()
        if marker is None:
            raise RunDirectoryError(
                f"There is no {MARKER} in {self.path}: what a run has written there is unknown, and nothing is removed."
            )
        # Somebody may have had a `data` folder before 0.1.0, which looked for nothing of the kind, wrote into it.
        adopted = [marker.entries[name] for name in marker.adopted if name in marker.entries]
        foreign = sorted(foreign_files(self.path, adopted))
        if foreign:
            raise RunDirectoryError(
                f"{self.path} holds files in the run's own folders that no run has written: "
                f"{_first_names(foreign)}. They would be removed with them. Move them elsewhere, or use "
                f"another `run_dir`, like {self._free_folder()}."
            )
        # The journal first: without it nothing has begun, should this be interrupted.
        for name in sorted(marker.entries, key=lambda name: name != JOURNAL):
            if name not in keep:
                remove(self.path / marker.entries[name])
        with self._alone():
            now = self.marker() or Marker()
            entries = {name: here for name, here in now.entries.items() if os.path.lexists(self.path / here)}
            self._write(replace(now, entries=entries, adopted=now.adopted & entries.keys()))

    # ---- inside -------------------------------------------------------------------------------------------------------

    def has_begun(self) -> bool:
        """Whether the run has anything to lose: its data has been prepared."""
        marker = self.marker() or Marker()
        return says_prepared(self.path / marker.entries.get(JOURNAL, JOURNAL))

    def _run_around(self) -> Path | None:
        """The directory of another run that owns the folder in which this one lies, or None."""
        here = self.path.resolve()
        for parent in here.parents:
            with contextlib.suppress(RunDirectoryError, OSError):
                marker = Ownership(parent).marker()
                if marker is not None and marker.kind == RUN:
                    return parent if here.relative_to(parent).parts[0] in marker.entries.values() else None
        return None

    def _in_the_way(self, recipe: Path | None) -> list[str]:
        """Entries of the directory beside which no run begins."""
        try:
            with refusing_path(self.path):
                entries = sorted(os.scandir(self.path), key=lambda entry: entry.name)
        except FileNotFoundError:
            return []

        def is_harmless(entry: os.DirEntry[str]) -> bool:
            if entry.name.startswith(".") or entry.name == "lost+found":
                return True
            if any(fnmatch.fnmatch(entry.name, pattern) for pattern in HARMLESS) and not entry.is_dir():
                return True
            return recipe is not None and entry.is_file() and recipe.is_file() and os.path.samefile(entry.path, recipe)

        return [entry.name + ("/" if entry.is_dir() else "") for entry in entries if not is_harmless(entry)]

    def _free_folder(self) -> Path:
        """A folder that is free for a run, named after this one."""
        here, working = self.path.resolve(), Path.cwd()
        parent = Path("runs") if here == working or here in working.parents else self.path.parent
        name = here.name or "run"
        numbered = (parent / f"{name}-{number}" for number in itertools.count(2))
        candidates = numbered if parent == self.path.parent else itertools.chain([parent / name], numbered)
        return next(folder for folder in candidates if not os.path.lexists(folder))

    def _free_name(self, name: str) -> str:
        """The name that an entry gets which is not there yet: its usual one, unless the user has something there."""
        numbered = (f"spin_trl-{number}-{name}" for number in itertools.count(2))
        candidates = itertools.chain([name, f"spin_trl-{name}"], numbered)
        return next(one for one in candidates if not os.path.lexists(self.path / one))

    def _adopt(self) -> None:
        """Take over a run of version 0.1.0: what it has written under the names that it used."""
        there = {entry.name: entry for entry in os.scandir(self.path)}
        of_a_comparison = fnmatch.fnmatch(self.path.resolve().parent.name, "seed-*")
        entries = {name: name for name in sorted(there) if is_top_entry(name)}
        if LINK in there and not there[LINK].is_symlink():
            del entries[LINK]
        if not of_a_comparison:
            entries.pop("output.txt", None)
        settings = self._users_own_settings()
        if settings is not None:
            entries[RECIPE] = self._free_name(RECIPE)
        self._create(Marker(entries, frozenset(entries)))
        if settings is not None:
            write_text(self.path / entries[RECIPE], yaml.safe_dump(settings, sort_keys=True))

    def _users_own_settings(self) -> dict[str, Any] | None:
        """Settings in a `recipe.yaml` that no run has written, since its text is another one; None if a run has."""
        try:
            text = (self.path / RECIPE).read_text(encoding="utf-8")
            settings = parse_yaml(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        is_by_user = isinstance(settings, dict) and text != yaml.safe_dump(settings, sort_keys=True)
        return settings if is_by_user else None

    def _create(self, marker: Marker) -> None:
        """Write the first marker of a directory, unless another process has just done so."""
        unfinished = self.marker_path.with_name(f"{MARKER}.{os.getpid()}.tmp")
        try:
            write_json(unfinished, marker.as_dict())
            try:
                os.link(unfinished, self.marker_path)
            except FileExistsError:
                return
            except OSError:  # a file system without hard links
                unfinished.replace(self.marker_path)
            _sync(self.path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _write(self, marker: Marker) -> None:
        write_json(self.marker_path, marker.as_dict())
        _sync(self.path)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from changing the marker: a report may be written while the run plays."""
        while True:
            with self.marker_path.open("r+b") as file:
                lock_file(file)
                # Whoever had it before has put another file in its place.
                if _is_still(file.fileno(), self.marker_path):
                    yield
                    return


def frozen_recipe(folder: Path) -> Path | None:
    """The frozen settings of the run in a folder, or None: there is none, or it is one of version 0.1.0."""
    marker = Ownership(folder).marker() if os.path.isdir(folder) else None
    return folder / marker.entries[RECIPE] if marker is not None and RECIPE in marker.entries else None


def _first_names(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether a path still means the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    """Let a folder's entries reach the disk, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
