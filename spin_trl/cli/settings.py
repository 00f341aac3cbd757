"""`spin-trl settings`: list the recipe settings and their help. `spin-trl schema`: print the same as a JSON schema."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from ..config.reference.in_words import default_in_words, facts_of, first_sentence, help_of
from ..config.reference.known import KnownSetting
from ..config.reference.listed import every_setting, looked_up, version_of
from ..config.reference.schema import schema_of
from ..config.traits import DPO_PREFIX, SFT_PREFIX
from .commands import add_command

_WHAT_IS_LISTED = """\
List the settings a recipe may have, including those of TRL and transformers. With words: the settings whose name or help
contains all of them. With a full name: all details of that setting.
"""
_WHAT_A_SCHEMA_IS = """\
Print the JSON schema of a recipe, with which an editor can complete and check settings:
  spin-trl schema > recipe.schema.json
Then put this on the first line of the recipe: # yaml-language-server: $schema=recipe.schema.json
"""
_EPILOG = """\
spin-trl settings                 all settings, by group
spin-trl settings learning_rate   all details of one setting
spin-trl settings lora            the settings related to LoRA
"""

_NAME_COLUMNS = 34
"""Width of the column of names in a list."""

_FACT_COLUMNS = 15


def add(commands: Any) -> None:
    """Add the commands."""
    what = "list the recipe settings, or show the details of one"
    parser = add_command(
        commands,
        "settings",
        show_settings,
        takes_settings=False,
        help=what,
        description=_WHAT_IS_LISTED,
        epilog=_EPILOG,
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="name of a setting, or words in its name or help")
    parser.add_argument("--json", action="store_true", help="print them as JSON, with all details")
    what = "print the JSON schema of a recipe, for editors"
    add_command(commands, "schema", show_schema, takes_settings=False, help=what, description=_WHAT_A_SCHEMA_IS)


def show_settings(options: argparse.Namespace, overrides: list[str]) -> None:
    """Show settings."""
    settings = installed_settings()
    words, of_trl = _of_trl(options.words, settings)
    found = looked_up(words, settings) if words else settings
    if of_trl and not options.json:
        whose = "DPOConfig's" if of_trl.startswith(DPO_PREFIX) else "SFTConfig's"
        where = "`then_dpo`" if of_trl.startswith(DPO_PREFIX) else "`start: sft`"
        print(_filled(f"{of_trl} sets {whose} setting of that name for {where}. In an iteration, it means:", 0))
    if options.json:
        print(json.dumps([dataclasses.asdict(setting) for setting in found], indent=2))
    elif not words:
        print(_listed_by_group(found, in_full=False))
        print("\n" + _filled(f"{len(found)} settings. `spin-trl settings NAME` shows all details of one.", 0))
    elif len(found) == 1 or _names_it(found[0], words):
        print(_in_full(found[0], settings))
        if found[1:]:
            print("\n" + _filled(f"See also: {', '.join(setting.name for setting in found[1:])}", 0))
    else:
        print(_listed_by_group(found, in_full=True))


def show_schema(options: argparse.Namespace, overrides: list[str]) -> None:
    """Print the schema."""
    print(json.dumps(schema_of(installed_settings()), indent=2))


def help_of_settings() -> str:
    """Return the end of `spin-trl run --help`: help on the settings most recipes need, and the names of all settings."""
    settings = installed_settings()
    common = [setting for setting in settings if setting.is_common]
    names = [
        textwrap.fill(
            f"{group}: {', '.join(setting.name for setting in part)}", _terminal_columns(), subsequent_indent="  "
        )
        for group, part in _by_group(settings).items()
    ]
    return (
        "settings most recipes need:\n"
        + _listed_by_group(common, in_full=False, heads=False)
        + f"\n\nall {len(settings)} settings (`spin-trl settings NAME` explains one):\n"
        + textwrap.indent("\n".join(names), "  ")
        + "\n"
    )


def installed_settings() -> list[KnownSetting]:
    """Return all settings of a recipe with the installed TRL; a message says so if they first have to be read from it."""
    return every_setting(_say_it_takes_long)


def _say_it_takes_long() -> None:
    # Imported here: it imports libraries that take seconds and usually are not needed.
    from .session import quieten

    print(f"Reading the settings of TRL {version_of('trl')} (only the first time).", file=sys.stderr)
    quieten()


def _of_trl(words: Sequence[str], settings: Sequence[KnownSetting]) -> tuple[list[str], str]:
    """Return the words to look up, and the name that was asked for if it is that of TRL's config (`sft_X`, `dpo_X`)."""
    names = {setting.name for setting in settings}
    asked = words[0].lstrip("-").replace("-", "_").lower() if len(words) == 1 else ""
    plain = asked.removeprefix(SFT_PREFIX).removeprefix(DPO_PREFIX)
    if asked == plain or asked in names or plain not in names:
        return list(words), ""
    return [plain], asked


def _names_it(setting: KnownSetting, words: Sequence[str]) -> bool:
    wanted = "_".join(words).lstrip("-").replace("-", "_").lower()
    return wanted in (setting.name, *setting.names_elsewhere)


def _by_group(settings: Sequence[KnownSetting]) -> dict[str, list[KnownSetting]]:
    groups: dict[str, list[KnownSetting]] = {}
    for setting in settings:
        groups.setdefault(setting.group, []).append(setting)
    return groups


def _listed_by_group(settings: Sequence[KnownSetting], *, in_full: bool, heads: bool = True) -> str:
    """Return the settings in two columns: names and help."""
    lines: list[str] = []
    for group, part in _by_group(settings).items():
        if heads:
            lines += ["", group] if lines else [group]
        lines += [_in_two_columns(setting, in_full) for setting in part]
    return "\n".join(lines)


def _in_two_columns(setting: KnownSetting, in_full: bool) -> str:
    said, default = help_of(setting), default_in_words(setting)
    words = (said if in_full else first_sentence(said)) + (f" (default: {default})" if default else "")
    text = textwrap.fill(
        words, _terminal_columns(), initial_indent=" " * _NAME_COLUMNS, subsequent_indent=" " * _NAME_COLUMNS
    )
    name = f"  {setting.name}"
    return name.ljust(_NAME_COLUMNS) + text[_NAME_COLUMNS:] if len(name) < _NAME_COLUMNS else f"{name}\n{text}"


def _in_full(setting: KnownSetting, settings: Sequence[KnownSetting]) -> str:
    known = [
        f"  {name:{_FACT_COLUMNS}}" + _filled(text, _FACT_COLUMNS + 2).lstrip()
        for name, text in facts_of(setting, settings).items()
    ]
    return "\n".join([setting.name, _filled(help_of(setting), 2), "", *known])


def _filled(text: str, indent: int) -> str:
    return textwrap.fill(text, _terminal_columns(), initial_indent=" " * indent, subsequent_indent=" " * indent)


def _terminal_columns() -> int:
    return max(60, min(shutil.get_terminal_size((100, 24)).columns - 2, 120))
