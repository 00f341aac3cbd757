"""List all settings that a recipe may have, without importing TRL, and search them by words.

Since importing TRL takes seconds, descriptions for one version of TRL are shipped in a file. With other versions of TRL or
transformers, they are derived from the code once and kept in the user's cache.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...errors import RecipeError, nearest
from ...files import parse_json, short_digest, write_text
from ..checks import shown
from ..credentials import is_name
from ..other_names import said_of
from ..paths import cache_folder
from .known import KnownSetting, settings_as_json

LIBRARIES = ("trl", "transformers")
"""Libraries whose settings a recipe inherits."""

_SHIPPED = "settings-trl-*.json"


def installed_versions() -> dict[str, str | None]:
    """Return the versions of [`LIBRARIES`] without importing them; None for a library that is not installed."""
    return {library: version_of(library) for library in LIBRARIES}


def version_of(library: str) -> str | None:
    """Return the version of a library without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def shipped_file() -> Path:
    """Return the settings file that ships with the package."""
    (file,) = Path(__file__).parent.glob(_SHIPPED)
    return file


def every_setting(before_import: Callable[[], object] = lambda: None) -> list[KnownSetting]:
    """Return all settings that a recipe may have with the installed versions of TRL and transformers.

    Args:
        before_import: called before these libraries are imported, if necessary, which takes seconds.
    """
    shipped, versions = shipped_file(), installed_versions()
    content = shipped.read_bytes()
    known = _settings_in(content, versions)
    if known is None and None in versions.values():
        known = _settings_in(content, None)  # the shipped file is all there is
    if known is not None:
        return known
    # The shipped file changes with our own settings, so its digest distinguishes caches of other versions.
    cached = cache_folder() / f"settings-{'-'.join(map(str, versions.values()))}-{short_digest(content)}.json"
    try:
        known = _settings_in(cached.read_bytes(), versions)
    except OSError:
        known = None
    if known is None:
        before_import()
        from .described import describe

        known = describe()
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_text(cached, settings_as_json(known, versions))
        except OSError:  # no home, or a full disk: the next command imports them again
            pass
    return known


def _settings_in(content: bytes, versions: Mapping[str, str | None] | None) -> list[KnownSetting] | None:
    """Return the settings in a file; None if it is damaged or belongs to other versions."""
    try:
        found = parse_json(content)
        if versions is not None and found["versions"] != versions:
            return None
        return [KnownSetting.of(values) for values in found["settings"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def looked_up(words: Sequence[str], settings: Sequence[KnownSetting]) -> list[KnownSetting]:
    """Search settings: an exact match of the name comes first, then settings with all words in their name or help.

    Args:
        words: parts of names or help texts, case-insensitive.
        settings: settings to search.

    Raises:
        RecipeError: if nothing is found; the message suggests the nearest name.
    """
    wanted = [word.lstrip("-").replace("-", "_").lower() for word in words]
    exact = [
        one for one in settings if [one.name] == wanted or (len(wanted) == 1 and wanted[0] in one.names_elsewhere)
    ]
    texts = {one.name: f"{one.name} {one.help} {one.note} {one.group}".lower() for one in settings}
    parts = [
        one
        for one in settings
        if one not in exact
        and all(word in texts[one.name] or word.replace("_", " ") in texts[one.name] for word in wanted)
    ]
    found = exact + [one for one in parts if any(word in one.name for word in wanted)]
    found += [one for one in parts if one not in found]
    if not found:
        named = " ".join(words)
        if is_name(named.lstrip("-")):
            raise RecipeError(f"{shown(named)} can't be a setting: tokens belong in the environment or a login.")
        near = said_of("_".join(wanted)) or nearest("_".join(wanted), [one.name for one in settings])
        raise RecipeError(
            f"No setting has {shown(named)} in its name or help{near} `spin-trl settings` lists all settings."
        )
    return found
