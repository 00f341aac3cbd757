"""Ownership of the entries of a run directory: a marker lists those of the run, each before it is created.

Everything else in the directory belongs to the user and is never written to or removed. If the user has something under a
name that the run needs, the run's own entry gets another name.
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
from ..counts import listed
from ..errors import RunDirectoryError
from ..files import JOURNAL, remove, says_prepared, write_json, write_text
from ..json_lines import lock_file
from .contents import ITERATION, LINK, foreign_files, is_top_entry
from .marker import MARKER, RUN, Marker, read_marker
from .possible_path import check_path, refusing_path

RECIPE = "recipe.yaml"

HARMLESS = ("*.out", "*.err", "*.log")
"""Files that are allowed in the folder of a new run, since schedulers and shells create them before it starts."""

SHOWN_NAMES = 5
"""Maximum number of names listed in a message."""


class Ownership:
    """Ownership of the entries of a directory by the run in it.

    Args:
        path: path of the directory; it need not exist yet.
        kind: kind of its contents: a run, or a comparison of runs.
    """

    def __init__(self, path: Path, kind: str = RUN) -> None:
        self.path, self.kind = path, kind
        self.marker_path = path / MARKER

    def marker(self) -> Marker | None:
        """Read the directory's marker; None if there is none.

        Raises:
            RunDirectoryError: if it can't be read.
        """
        return read_marker(self.marker_path)

    def is_earlier_run(self) -> bool:
        """Return whether the directory contains a run of version 0.1.0: a journal with prepared data, but no marker."""
        return self.marker() is None and self.has_begun()

    def holds_run(self) -> bool:
        """Return whether the directory belongs to a run, or to a comparison if that is the `kind`."""
        marker = self.marker()
        return self.has_begun() if marker is None else marker.kind == self.kind

    # ---- places -------------------------------------------------------------------------------------------------------

    def place(self, name: str) -> Path:
        """Return the path of an entry of the run, existing or not. It is not the usual one if that is taken by the user."""
        marker = self.marker()
        if marker is None:
            return self.path / name
        return self.path / (marker.entries.get(name) or self._free_name(name))

    def usual_name(self, path: Path) -> str:
        """Return the usual path, with `/`, of something in the directory: its path if the user had no files there."""
        here, *below = path.relative_to(self.path).parts
        names = {there: name for name, there in (self.marker() or Marker()).entries.items()}
        return Path(names.get(here, here), *below).as_posix()

    def own(self, name: str) -> Path:
        """Record that an entry belongs to the run, before it is created.

        Args:
            name: usual name of the entry.

        Returns:
            Path of the entry, existing or not. Without a marker nothing is recorded, and the path is the usual one.

        Raises:
            OSError: if the marker can't be written.
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
        """Yield the numbers of the iterations that have a folder, in order."""
        marker = self.marker()
        if marker is not None:
            names: Collection[str] = [name for name, here in marker.entries.items() if (self.path / here).is_dir()]
        else:
            names = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        yield from sorted(int(found[1]) for name in names if (found := ITERATION.fullmatch(name)))

    def see_paths_from(self, folder: Path) -> None:
        """Record the folder that relative paths in the run's settings refer to."""
        marker = self.marker()
        if marker is not None:
            paths_from = os.path.relpath(folder.resolve(), self.path.resolve())
            if paths_from != marker.paths_from:
                with self._alone():
                    self._write(replace(self.marker() or Marker(), paths_from=paths_from))

    def paths_from(self) -> Path | None:
        """Return the folder that relative paths in the run's settings refer to; None if unknown."""
        marker = self.marker()
        if marker is None or marker.paths_from is None:
            return None
        return (self.path.resolve() / marker.paths_from).resolve()

    def former_place(self) -> Path | None:
        """Return the last recorded path of the directory if it has been moved since, else None."""
        marker = self.marker()
        if marker is None or not marker.places or marker.places[-1] == str(self.path.resolve()):
            return None
        return Path(marker.places[-1])

    def note_place(self) -> Path | None:
        """Record the current path of the directory. Return its previous path, as [`Ownership.former_place`] does.

        Raises:
            OSError: if the marker can't be written.
        """
        before, here, marker = self.former_place(), str(self.path.resolve()), self.marker()
        if marker is not None and marker.places[-1:] != (here,):
            with self._alone():
                now = self.marker() or Marker()
                self._write(replace(now, places=(*(place for place in now.places if place != here), here)))
        return before

    def start_files(self) -> Mapping[str, Sequence[int]] | None:
        """Return the last seen sizes and modification times of the weights of the start; None if never recorded."""
        marker = self.marker()
        return None if marker is None else marker.start_files

    def see_start(self, files: Mapping[str, Sequence[int]] | None) -> None:
        """Record the sizes and modification times of the weights of the start; None if they are not in a local folder.

        Raises:
            OSError: if the marker can't be written.
        """
        marker = self.marker()
        if marker is not None and marker.start_files != files:
            with self._alone():
                self._write(replace(self.marker() or Marker(), start_files=files))

    def identify(self) -> str | None:
        """Return the run's random name, assigning one if it has none; None if there is no marker."""
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
        """Raise if a run can be neither resumed nor started in the directory.

        Args:
            recipe: file that the run is started from; it may be in the directory.

        Raises:
            RunDirectoryError: if it contains files of the user's (the message names them and a free folder), or can't be a
                run directory at all ([`possible_path.check_path`]).
        """
        check_path(self.path)
        marker = self.marker()
        if marker is not None and marker.kind != self.kind:
            raise RunDirectoryError(
                f"{self.path} contains a {marker.kind}. Use another `run_dir` for the {self.kind}, like "
                f"{self._free_folder()}."
            )
        if self.holds_run():
            return
        owner = self._run_around()
        if owner is not None:
            raise RunDirectoryError(
                f"{self.path} is inside a folder of the run in {owner} and would be removed with it. Use another `run_dir`, "
                f"like {owner.with_name(f'{owner.name}-2')}."
            )
        found = self._in_the_way(recipe)
        if found:
            raise RunDirectoryError(
                f"{self.path} contains files that do not belong to a {self.kind}: {listed(found, SHOWN_NAMES)}. "
                f"A {self.kind} needs a folder that is empty except for its recipe, hidden files and logs. "
                f"Use another `run_dir`, like {self._free_folder()}."
            )

    def claim(self, recipe: Path | None = None, earlier: Collection[str] = ()) -> None:
        """Claim the directory for a new run, a run of version 0.1.0, or the run that is already there.

        Args:
            recipe: as in [`Ownership.check`].
            earlier: names of entries written by version 0.1.0 that no journal records.

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
        """Remove everything that belongs to the run, and nothing else. Links are removed, but not their targets.

        Args:
            keep: usual names of entries to keep.

        Raises:
            RunDirectoryError: if it is unknown what belongs to the run, or a folder of a run of version 0.1.0 contains a
                file of the user's.
        """
        if self.is_earlier_run():
            self._adopt()
        marker = self.marker()
        if marker is None:
            raise RunDirectoryError(
                f"There is no {MARKER} in {self.path}, so it is unknown which files belong to a run. Nothing was removed."
            )
        # A user may already have had a `data` folder, which version 0.1.0 wrote into without checking.
        adopted = [marker.entries[name] for name in marker.adopted if name in marker.entries]
        foreign = sorted(foreign_files(self.path, adopted))
        if foreign:
            raise RunDirectoryError(
                f"The run's own folders in {self.path} contain files that were not written by a run: "
                f"{listed(foreign, SHOWN_NAMES)}. They would be removed with the folders. Move them elsewhere, or use "
                f"another `run_dir`, like {self._free_folder()}."
            )
        # The journal goes first: if this is interrupted, a run without a journal counts as not begun.
        for name in sorted(marker.entries, key=lambda name: name != JOURNAL):
            if name not in keep:
                remove(self.path / marker.entries[name])
        with self._alone():
            now = self.marker() or Marker()
            entries = {name: here for name, here in now.entries.items() if os.path.lexists(self.path / here)}
            self._write(replace(now, entries=entries, adopted=now.adopted & entries.keys()))

    # ---- inside -------------------------------------------------------------------------------------------------------

    def has_begun(self) -> bool:
        """Return whether the run has anything to lose, that is, whether its data has been prepared."""
        marker = self.marker() or Marker()
        return says_prepared(self.path / marker.entries.get(JOURNAL, JOURNAL))

    def _run_around(self) -> Path | None:
        """Return the directory of another run that owns the folder this directory is in, or None."""
        here = self.path.resolve()
        for parent in here.parents:
            with contextlib.suppress(RunDirectoryError, OSError):
                marker = Ownership(parent).marker()
                if marker is not None and marker.kind == RUN:
                    return parent if here.relative_to(parent).parts[0] in marker.entries.values() else None
        return None

    def _in_the_way(self, recipe: Path | None) -> list[str]:
        """Return the entries that keep a run from being started in the directory."""
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
        """Return a free folder for a run, named after this one."""
        here, working = self.path.resolve(), Path.cwd()
        parent = Path("runs") if here == working or here in working.parents else self.path.parent
        name = here.name or "run"
        numbered = (parent / f"{name}-{number}" for number in itertools.count(2))
        candidates = numbered if parent == self.path.parent else itertools.chain([parent / name], numbered)
        return next(folder for folder in candidates if not os.path.lexists(folder))

    def _free_name(self, name: str) -> str:
        """Return the name for a new entry: its usual name, unless that is taken by the user."""
        numbered = (f"spin_trl-{number}-{name}" for number in itertools.count(2))
        candidates = itertools.chain([name, f"spin_trl-{name}"], numbered)
        return next(one for one in candidates if not os.path.lexists(self.path / one))

    def _adopt(self) -> None:
        """Adopt a run of version 0.1.0: record the entries that it has written, under the names that it used."""
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
        """Return the settings in a `recipe.yaml` written by the user, which its formatting shows; None if a run wrote it."""
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
        """Keep other processes from changing the marker, since a report may be written while the run is playing."""
        while True:
            with self.marker_path.open("r+b") as file:
                lock_file(file)
                # The previous holder may have replaced the file.
                if _is_still(file.fileno(), self.marker_path):
                    yield
                    return


def _is_still(descriptor: int, path: Path) -> bool:
    """Return whether a path still refers to the opened file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    """Flush a folder's entries to disk if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
