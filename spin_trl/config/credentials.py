"""Find tokens, keys and passwords in settings, so that they are refused before anything is written, logged or pushed.

A run directory is shared and stored on the Hub, and a command line is visible in the process list. Credentials belong in the
environment or a login, where the libraries that need them look for them.
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
"""Names of credentials, or endings after a service's name: `WANDB_API_KEY`, `NEPTUNE_API_TOKEN`. Whole names are matched,
ignoring case; `hub-token` and `hubToken` count as `hub_token`.
"""

_HUB_NAMES = (
    r"token|use_auth_token|(?:push_to_)?hub_token|(?:hf|hugging_?face(?:hub)?)_(?:(?:(?:api|hub)_)?token|api_key)"
)
"""Settings and environment variables that hold a token of the Hugging Face Hub."""

_NAMES_ELSEWHERE = (
    r"(?:bearer|dvc_studio|gh|github|gitlab|id|mlflow_tracking|refresh|(?:aws_)?session)_token|aws_access_key_id|apikey|"
    r"(?:kaggle|private)_key|authorization|mysql_pwd|passwd|pgpassword|secret"
)
"""Settings and environment variables that hold credentials of other services."""

_ENDINGS_OF_VARIABLES = ("_token", "_secret", "_passwd")
"""Further endings, for names of environment variables only: a model may have a `pad_token`, but no `SLACK_TOKEN`."""

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
"""User name and password in a URL."""
_SIGNATURE = re.compile(
    r"(?i)(?<=[?&#])((?:token|access_token|api_key|apikey|sig|signature|x-amz-signature|x-goog-signature)=)[^&#\s]{8,}"
)
"""The part of a URL that grants access to anybody who has the URL."""

_CREDENTIAL = re.compile(rf"(?:.*_)?(?:{_ENDINGS})|{_HUB_NAMES}|{_NAMES_ELSEWHERE}", re.DOTALL)
_NAMED = re.compile(
    rf"(?i)((?<![a-z0-9_])[\"']?(?:[a-z0-9_]+_(?:{_ENDINGS})|"
    + f"{_ENDINGS}|{_HUB_NAMES}|{_NAMES_ELSEWHERE}".replace("_", "[-_]")
    + r")[\"']?\s*[:=]\s*)(?:\"[^\"]*\"?|'[^']*'?|[^\s,}\]\"']+)"
)
"""A named credential in text that could not be parsed."""

_CAPITAL_INSIDE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_SWITCHES = frozenset({"", "0", "1", "false", "n", "no", "none", "null", "off", "on", "true", "y", "yes", "~"})
"""Values that only switch the use of a credential on or off: `token: true` is not a credential itself."""

_NAMES_OF_COLUMNS = frozenset({"column_mapping"})
"""Settings whose keys are names chosen by the user."""

_HIDDEN = "***"
_FOR_THE_HUB = "Set `HF_TOKEN` in the environment, or log in once with `hf auth login`."


@dataclass(frozen=True)
class Credential:
    """A credential found in settings; its value is not stored.

    Attributes:
        place: location in the settings: `model_init_kwargs.token`.
        what: kind of credential: `a token`.
        remedy: advice on what to do instead.
    """

    place: str
    what: str
    remedy: str


def find_credentials(settings: Any, place: str = "", seen: frozenset[int] = frozenset()) -> Iterator[Credential]:
    """Yield the credentials in settings at any depth, recognised by their names or by their form.

    Args:
        settings: mappings, sequences, dataclasses and scalars; text that is JSON or YAML is searched, too.
        place: location of `settings` in the whole.
        seen: ids of the enclosing containers, since YAML aliases may form a cycle.
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
    """Raise if settings contain a credential.

    Args:
        settings: settings, as in [`find_credentials`].
        where: file that the settings were read from.

    Raises:
        RecipeError: if they do. The message names its location and where it belongs instead, but not its value.
    """
    found = next(find_credentials(settings), None)
    if found is None:
        return
    file, there = (f"{where}: ", "Remove it there. ") if where is not None else ("", "")
    subject = "One of the values" if found.place.startswith("[") or not found.place else f"`{found.place}`"
    raise RecipeError(
        f"{file}{subject} can't be a setting: {found.what} does not belong in a recipe or on a command line, where "
        f"others can read it. {there}{found.remedy}"
    )


def refuse_in_text(text: str, where: Path) -> None:
    """Raise if a recipe's text contains a token, for instance in a comment: the file may be shared unchanged.

    Args:
        text: text of the recipe.
        where: file that the text was read from.

    Raises:
        RecipeError: if it does. The message gives the line's number, but does not quote it.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if _TOKEN.search(line):
            raise RecipeError(
                f"{where}, line {number} contains a token, which does not belong in a recipe, where others can read it. "
                f"Remove it there. {_FOR_THE_HUB}"
            )


def refuse_in_arguments(arguments: Sequence[str]) -> None:
    """Raise if a command-line argument is or contains a credential.

    Args:
        arguments: options with their values, as separate arguments or after `=`, and any other arguments.

    Raises:
        RecipeError: if one does. The message does not repeat it.
    """
    for option in options_of(arguments):
        # Unwrap a single value, which is not an item of a list.
        refuse_credentials({option.name: option.values[0] if len(option.values) == 1 else option.values})


def hide(text: str) -> str:
    """Return text with everything that looks like a credential replaced by `***`.

    Meant for text that has not been parsed: messages of other libraries, and files that are not YAML.
    """
    return _SIGNATURE.sub(rf"\1{_HIDDEN}", _LOGIN.sub(_HIDDEN, _TOKEN.sub(_HIDDEN, text)))


def hide_named(text: str) -> str:
    """Like `hide`, but also replace any value after the name of a credential: `token: ***`."""
    return hide(_NAMED.sub(rf"\1{_HIDDEN}", text))


def yaml_problem(error: Exception) -> str:
    """Describe what is wrong with an invalid YAML file, and where, without quoting the line.

    YAML's own message quotes part of the line, which may be an unrecognisable part of a token.

    Args:
        error: error raised by YAML or by reading the file.
    """
    text = str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        text = f"{said} (line {mark.line + 1}, column {mark.column + 1})"
    return hide_named(text)


def hidden(settings: Any) -> Any:
    """Return settings with credentials replaced by `***`, as they are passed to trackers."""
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
    """Return whether a setting or environment variable of this name holds a credential."""
    return _CREDENTIAL.fullmatch(_normal(name)) is not None


def _in_entry(key: str, value: Any, place: str, seen: frozenset[int]) -> Iterator[Credential]:
    if list(_in_text(key, place, seen)):
        yield Credential(place or "a key", "a credential", _remedy(key, place))
        return
    # Environment variables are identified by their bare names.
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
        yield Credential(place, "a URL that contains a password", _remedy("", place))
    elif "://" in text and _SIGNATURE.search(text):
        yield Credential(place, "a URL that contains a key", _remedy("", place))
    elif text.lstrip()[:1] in ("{", "["):
        yield from _in_structure(text, place, seen)


def _in_structure(text: str, place: str, seen: frozenset[int]) -> Iterator[Credential]:
    """Search JSON or YAML given as text, on a command line or in a file; if it can't be parsed, search the raw text."""
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
    """Return whether the value of a setting named like a credential is one, i.e. neither a switch nor a mapping."""
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
