"""Finds tokens, keys and passwords in settings, so that they are refused before anything is written, logged or pushed.

A run directory is shown to others and kept on the Hub, and a command line stands in the list of processes. Credentials
belong into the environment or into a login, where the libraries that need them look for them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError
from .arguments import options_of
from .yaml_text import parse_yaml

_ENDINGS = r"(?:access|api|secret)_key|(?:access|api|auth)_token|client_secret|password"
"""What such names are, or end in, behind a service's name: `WANDB_API_KEY`, `NEPTUNE_API_TOKEN`. They are compared whole and
without case; `hub-token` and `hubToken` are `hub_token`.
"""

_HUB_NAMES = (
    r"token|use_auth_token|(?:push_to_)?hub_token|(?:hf|hugging_?face(?:hub)?)_(?:(?:(?:api|hub)_)?token|api_key)"
)
"""Settings and environment variables that hold a token of the Hugging Face Hub."""

_NAMES_ELSEWHERE = (
    r"(?:bearer|dvc_studio|gh|github|gitlab|id|mlflow_tracking|refresh|(?:aws_)?session)_token|aws_access_key_id|apikey|"
    r"(?:kaggle|private)_key|authorization|mysql_pwd|passwd|pgpassword|secret"
)
"""Those that hold something of somebody else's."""

_ENDINGS_OF_VARIABLES = ("_token", "_secret", "_passwd")
"""What else only the names of environment variables end in: no model has a `SLACK_TOKEN`, as it has a `pad_token`."""

_HUB_TOKEN = r"(?<![A-Za-z0-9])(?:hf_|api_org_)[A-Za-z0-9]{30,}|(?<![A-Za-z0-9])hf_(?:oauth|jwt)_[\w.~+/=-]{30,}"
_OTHER_TOKENS = (
    r"gh[opusr]_[A-Za-z0-9]{36,}",  # GitHub
    r"github_pat_\w{50,}",
    r"glpat-[\w-]{20,}",  # GitLab
    r"sk-(?:ant|proj|svcacct|or)-[\w-]{30,}|sk-[A-Za-z0-9]{40,}",  # Anthropic, OpenAI, OpenRouter
    r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    r"AIza[\w-]{35}(?![\w-])",  # Google
    r"xox[abeprs]-[A-Za-z0-9-]{20,}",  # Slack
    r"wandb_v1_\w{40,}",
    r"gsk_[A-Za-z0-9]{40,}",  # Groq
    r"r8_[A-Za-z0-9]{37}(?![A-Za-z0-9])",  # Replicate
    r"nvapi-[\w-]{50,}",
)
_TOKEN = re.compile(f"{_HUB_TOKEN}|(?<![A-Za-z0-9])(?:{'|'.join(_OTHER_TOKENS)})")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_LOGIN = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
"""Name and password in an address."""
_SIGNATURE = re.compile(
    r"(?i)(?<=[?&#])((?:token|access_token|api_key|apikey|sig|signature|x-amz-signature|x-goog-signature)=)[^&#\s]{8,}"
)
"""The part of an address that lets whoever has it read what is there."""

_CREDENTIAL = re.compile(rf"(?:.*_)?(?:{_ENDINGS})|{_HUB_NAMES}|{_NAMES_ELSEWHERE}", re.DOTALL)
_NAMED = re.compile(
    rf"(?i)((?<![a-z0-9_])[\"']?(?:[a-z0-9_]+_(?:{_ENDINGS})|"
    + f"{_ENDINGS}|{_HUB_NAMES}|{_NAMES_ELSEWHERE}".replace("_", "[-_]")
    + r")[\"']?\s*[:=]\s*)(?:\"[^\"]*\"?|'[^']*'?|[^\s,}\]\"']+)"
)
"""A credential by its name, in a text that could not be parsed."""

_CAPITAL_INSIDE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_SWITCHES = frozenset({"", "0", "1", "false", "n", "no", "none", "null", "off", "on", "true", "y", "yes", "~"})
"""Values that say whether a credential is used: `token: true` is none itself."""

_NAMES_OF_COLUMNS = frozenset({"column_mapping"})
"""Settings whose keys are the user's own names."""

_HIDDEN = "***"
_FOR_THE_HUB = "Set `HF_TOKEN` in the environment, or log in once with `hf auth login`."


@dataclass(frozen=True)
class Credential:
    """One that stands in settings. What it is stays there.

    Attributes:
        place: where: `model_init_kwargs.token`.
        what: what it is: `a token`.
        remedy: what to do instead.
    """

    place: str
    what: str
    remedy: str


def find_credentials(settings: Any, place: str = "", seen: frozenset[int] = frozenset()) -> Iterator[Credential]:
    """Yield the credentials that settings hold, at any depth: by their names, and by what they look like.

    Args:
        settings: mappings, sequences, dataclasses and values; text that is JSON or YAML is searched, too.
        place: where they stand.
        seen: ids of what they stand in: YAML's aliases may run in a circle.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        fields = dataclasses.fields(settings)
        settings = {field.name: getattr(settings, field.name) for field in fields if hasattr(settings, field.name)}
    if isinstance(settings, str):
        yield from _in_text(settings, place, seen)
    elif isinstance(settings, Mapping | list | tuple | set | frozenset) and id(settings) not in seen:
        seen |= {id(settings)}
        if isinstance(settings, Mapping):
            for key, part in settings.items():
                yield from _in_entry(str(key), part, place, seen)
        else:
            for number, part in enumerate(settings):
                yield from find_credentials(part, f"{place}[{number}]", seen)


def refuse_credentials(settings: Any, where: Path | None = None) -> None:
    """Raise if settings hold a credential.

    Args:
        settings: as [`find_credentials`] takes them.
        where: the file that they were read from.

    Raises:
        RecipeError: they do. The message says where, and where it belongs instead; what it is is not repeated.
    """
    found = next(find_credentials(settings), None)
    if found is None:
        return
    file, there = (f"{where}: ", "Remove it there. ") if where is not None else ("", "")
    subject = "What was given" if found.place.startswith("[") or not found.place else f"`{found.place}`"
    raise RecipeError(
        f"{file}{subject} can't be a setting: {found.what} does not belong into a recipe or onto a command line, where "
        f"others can read it. {there}{found.remedy}"
    )


def refuse_in_text(text: str, where: Path) -> None:
    """Raise if a token stands in a recipe's text, in a comment for instance: the file is shown to others as it is.

    Args:
        text: of the recipe.
        where: the file that it was read from.

    Raises:
        RecipeError: one does. The message names the line, and does not repeat it.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if _TOKEN.search(line):
            raise RecipeError(
                f"{where}, line {number} holds a token, which does not belong into a recipe, where others can read it. "
                f"Remove it there. {_FOR_THE_HUB}"
            )


def refuse_in_arguments(arguments: Sequence[str]) -> None:
    """Raise if an argument of a command line is a credential, or holds one.

    Args:
        arguments: options, with their values behind them or after `=`, and whatever else was given.

    Raises:
        RecipeError: one is. What it is is not repeated.
    """
    for option in options_of(arguments):
        # A single value is not an item of a list.
        refuse_credentials({option.name: option.values[0] if len(option.values) == 1 else option.values})


def hide(text: str) -> str:
    """A text that is shown to others, with `***` for what looks like a credential.

    It is for what has not been parsed: messages of other libraries, and files that are no YAML.
    """
    return _SIGNATURE.sub(rf"\1{_HIDDEN}", _LOGIN.sub(_HIDDEN, _TOKEN.sub(_HIDDEN, text)))


def hide_named(text: str) -> str:
    """Like `hide`, and with `***` for whatever stands behind the name of a credential, too: `token: ***`."""
    return hide(_NAMED.sub(rf"\1{_HIDDEN}", text))


def yaml_problem(error: Exception) -> str:
    """What is wrong with a file that is no YAML, and where, without the line itself.

    YAML's own message shows a part of the line, which may be a part of a token that nobody would know by its looks.

    Args:
        error: of YAML, or of what reads the file.
    """
    text = str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        text = f"{said} (line {mark.line + 1}, column {mark.column + 1})"
    return hide_named(text)


def hidden(settings: Any) -> Any:
    """Settings with `***` for the credentials in them: what trackers are told of a trainer's arguments."""
    if isinstance(settings, Mapping):
        return {
            key: _HIDDEN if is_name(str(key)) and _is_secret(value) else hidden(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return type(settings)(hidden(value) for value in settings) if type(settings) in (list, tuple) else settings
    if isinstance(settings, str) and next(find_credentials(settings), None) is not None:
        return _HIDDEN
    return settings


def is_name(name: str) -> bool:
    """Whether a setting or an environment variable of this name holds a credential."""
    return _CREDENTIAL.fullmatch(_normal(name)) is not None


def _in_entry(key: str, value: Any, place: str, seen: frozenset[int]) -> Iterator[Credential]:
    if list(_in_text(key, place, seen)):
        yield Credential(place or "a key", "a credential", _remedy(key, place))
        return
    # Variables are known by their names, wherever they are set.
    inner = key if not place or place == "env" else f"{place}.{key}"
    named = is_name(key) or (place == "env" and _normal(key).endswith(_ENDINGS_OF_VARIABLES))
    if named and re.split(r"[.\[]", place)[0] not in _NAMES_OF_COLUMNS and _is_secret(value):
        yield Credential(inner, _kind(key), _remedy(key, place))
    else:
        yield from find_credentials(value, inner, seen)


def _in_text(text: str, place: str, seen: frozenset[int]) -> Iterator[Credential]:
    token = _TOKEN.search(text)
    if token:
        ours = re.match(_HUB_TOKEN, token[0]) is not None
        yield Credential(place, "a token", _FOR_THE_HUB if ours else _remedy("", place))
    elif _PRIVATE_KEY.search(text):
        yield Credential(place, "a private key", _remedy("", place))
    elif _LOGIN.search(text):
        yield Credential(place, "an address with a password in it", _remedy("", place))
    elif "://" in text and _SIGNATURE.search(text):
        yield Credential(place, "an address with a key in it", _remedy("", place))
    elif text.lstrip()[:1] in ("{", "["):
        yield from _in_structure(text, place, seen)


def _in_structure(text: str, place: str, seen: frozenset[int]) -> Iterator[Credential]:
    """What JSON or YAML on a command line, or inside a file, holds; if it is neither, what can be seen of it."""
    try:
        parsed = parse_yaml(text)
    except yaml.YAMLError:
        found = _NAMED.search(text)
        if found:
            name = found[1].strip(" \t\n\"':=")
            yield Credential(f"{place}.{name}", _kind(name), _remedy(name, place))
        return
    if not isinstance(parsed, str):
        yield from find_credentials(parsed, place, seen)


def _is_secret(value: Any) -> bool:
    """Whether the value of a setting with such a name is a credential: no switch, and nothing with parts of its own."""
    if value is None or isinstance(value, bool | Mapping):
        return False
    if isinstance(value, list | tuple | set):
        return any(_is_secret(part) for part in value)
    return str(value).strip().lower() not in _SWITCHES


def _kind(name: str) -> str:
    name = _normal(name)
    if "passw" in name:
        return "a password"
    return "a token" if "token" in name or re.fullmatch(_HUB_NAMES, name) else "a key"


def _remedy(name: str, place: str) -> str:
    if re.fullmatch(_HUB_NAMES, _normal(name)):
        return _FOR_THE_HUB
    variable = f"`{name}`" if name and (place == "env" or name.isupper()) else "it"
    return f"Set {variable} in the environment that the command is started from, or log in with the service's own command."


def _normal(name: str) -> str:
    return _CAPITAL_INSIDE.sub("_", name.strip()).lower().replace("-", "_")
