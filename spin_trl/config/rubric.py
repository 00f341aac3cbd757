"""Settings of the scorer `rubric`: criteria that need no model, from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..evaluation.rubric import Rubric, read_rubric
from ..files import home_expanded
from ..objectives.fields import setting
from .checks import as_mapping
from .credentials import refuse_credentials
from .kinds import refuse_odd_parts
from .yaml_files import read_yaml

RUBRIC = "rubric"
"""Name of the scorer, and of its setting."""


@dataclass
class RubricSettings:
    """The fields of [`SelfPlayConfig`] on the scorer `rubric`.

    Args:
        rubric: With `scorer: rubric`, the YAML file of its criteria, or the criteria themselves. Their content is frozen
            with the run.
    """

    rubric: dict[str, Any] | str | None = setting(
        None,
        "With `scorer: rubric`, the YAML file of its criteria, or the criteria themselves. Their content is frozen with the "
        "run.",
    )

    @property
    def criteria(self) -> Rubric | None:
        """The rubric that answers are scored by; None if none is set."""
        return None if self.rubric is None else read_rubric(self.rubric)


def rubric_content(value: Any) -> dict[str, Any] | None:
    """Return the content of a rubric, once it is known that all of its criteria can be read.

    Args:
        value: name of a file, or the content: as a mapping, or as JSON from the command line; None: no rubric.

    Raises:
        RecipeError: if the file can't be read, holds a credential, or has a criterion that can't be read. The message names
            the file and the criterion.
    """
    if value is None:
        return None
    refuse_odd_parts("rubric", value)
    is_file = isinstance(value, str) and not value.lstrip().startswith("{")
    where = f"`rubric`: {value}" if is_file else "`rubric`"
    content = _read_file(value, where) if is_file else as_mapping("rubric", value)
    refuse_odd_parts("rubric", content)
    refuse_credentials({"rubric": content}, Path(value) if is_file else None)
    try:
        read_rubric(content)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    return content


def _read_file(name: str, where: str) -> dict[str, Any]:
    path = home_expanded(name)
    if not os.path.isfile(path):  # a device has no end
        what = "it is not a file" if os.path.exists(path) else "there is no such file"
        raise RecipeError(f"{where}: {what}; expected a YAML file with `criteria`.")
    return read_yaml(path, where)


def check_has_rubric(rubric: Mapping[str, Any] | None, **scorers: Sequence[str] | None) -> None:
    """Raise if a setting names the scorer `rubric` but there is no rubric.

    Args:
        rubric: content of the rubric, or None.
        scorers: scorers by the setting that names them.
    """
    found = next((name for name, names in scorers.items() if RUBRIC in (names or [])), None)
    if found is not None and rubric is None:
        raise RecipeError(f"`{found}: {RUBRIC}` needs `{RUBRIC}`: a YAML file with criteria.")


def rubric_for(scorers: Sequence[str], file: str | None, own: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """Return the content of the rubric that scorers named on a command line use.

    Args:
        scorers: names of the scorers.
        file: file of a rubric named there (`--rubric`), or None.
        own: content of the run's own rubric, which is used without one.

    Raises:
        RecipeError: as for [`rubric_content`], or if a file is named and no scorer uses it.
    """
    if file is not None and RUBRIC not in scorers:
        raise RecipeError(f"`--{RUBRIC}` has no effect on the scorer {', '.join(scorers)}. Add `--scorer {RUBRIC}`.")
    return rubric_content(own if file is None else file)


def changed_criteria(before: Any, now: Any) -> str:
    """Return which criteria of two rubrics differ, in words.

    Args:
        before, now: contents of rubrics, or None.
    """
    then, today = _by_name(before), _by_name(now)
    changed = {name: "changed" for name in then if name in today and then[name] != today[name]}
    changed |= {name: "added" for name in today if name not in then}
    changed |= {name: "removed" for name in then if name not in today}
    return ", ".join(f"{name!r} was {how}" for name, how in changed.items()) or "the criteria are in another order"


def _by_name(content: Any) -> dict[str, Any]:
    criteria = content.get("criteria") if isinstance(content, Mapping) else None
    return {str(one.get("name")): one for one in criteria or () if isinstance(one, Mapping)}
