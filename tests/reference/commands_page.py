"""`docs/reference/commands.md`: every command and its options, from argparse."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from reference.markdown import WRITTEN, escaped, table
from spin_trl.cli.command_line import command_parser
from spin_trl.cli.commands import RECIPES, SETTINGS

HEAD = """\
# Commands

`spin-trl COMMAND --help` shows the same in a terminal. `python -m spin_trl` is the same command, and so is
`accelerate launch -m spin_trl`.

"""

RULES = """
A recipe is given as a YAML file, a folder with `spin.yaml`, a run directory, or the name of a recipe that
ships with the package (`spin-trl recipes`). Commands that take settings accept every [setting](settings.md) after
its name: `spin-trl run quickstart --num_iterations 2`. Separate the values of a list by spaces
(`--loss_type sigmoid space`), and write a value for each iteration as a quoted list (`--learning_rate '[1e-3,5e-4]'`) and a
mapping as JSON (`--column_mapping '{"question": "prompt"}'`).

A command exits with 0 when it is done, with 2 if its input has to change, with 1 if it failed, and with 130 if it was
interrupted ([Errors and exit codes](errors.md)). `spin-trl` without a command prints its help on stderr and exits with 2.
"""


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, by its name."""
    (subparsers,) = (one for one in command_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(subparsers.choices)


def helps() -> dict[str, str]:
    """Return what the list of commands says about each."""
    (subparsers,) = (one for one in command_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return {one.dest: str(one.help) for one in subparsers._choices_actions}


def arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Return the arguments of a command, without its help and its subcommands."""
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield action


def page() -> str:
    rows = [[f"[`{name}`](#{name})", escaped(text, in_table=True)] for name, text in helps().items()]
    general = [[f"`{called(one)}`", escaped(str(one.help), in_table=True)] for one in arguments(command_parser())]
    sections = "".join(section(name, parser) for name, parser in commands().items())
    return f"{WRITTEN}{HEAD}{table(['command', 'what it does'], [*rows, *general])}{RULES}{sections}"


def called(action: argparse.Action) -> str:
    """Return an argument as it is given: `--iteration T`, `RUN`, `--again`."""
    value = str(action.metavar or action.dest).upper()
    several = {"+": " ...", "*": " ..."}.get(str(action.nargs), "")
    if not action.option_strings:
        return f"{value}{several}"
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}{several}")


def usage(name: str, parser: argparse.ArgumentParser) -> str:
    parts = ["spin-trl", name]
    for action in arguments(parser):
        is_needed = action.required and action.nargs not in ("?", "*")
        parts.append(called(action) if is_needed else f"[{called(action)}]")
    if parser.get_default("takes_settings"):
        parts.append("[--SETTING VALUE ...]")
    return " ".join(parts)


def section(name: str, parser: argparse.ArgumentParser) -> str:
    said = (parser.description or "").removesuffix(SETTINGS)  # the page explains it once, above
    body = (
        f"\n```text\n{said.strip()}\n```\n"
        if said and "\n  " in said
        else f"\n{escaped(said.strip())}\n"
        if said
        else ""
    )
    rows = [[f"`{called(action)}`", meaning(action)] for action in arguments(parser)]
    options = "\n" + table(["argument", "meaning"], rows) if rows else ""
    more = parser.epilog if parser.epilog and parser.epilog != RECIPES else ""
    epilog = f"\n```text\n{more.strip()}\n```\n" if more else ""
    title = helps()[name]
    body = body or f"\n{escaped(title[0].upper() + title[1:])}.\n"
    head = f"\n## {name}\n\n```text\n{usage(name, parser)}\n```\n"
    return head + body + options + epilog


def meaning(action: argparse.Action) -> str:
    text = escaped(str(action.help or ""), in_table=True)
    if action.choices is not None:
        text += f" (one of {', '.join(map(str, action.choices))})"
    is_said = "default" in text or f"({action.default})" in text
    has_default = action.default not in (None, False, argparse.SUPPRESS)
    return text + (f" (default: {action.default})" if has_default and not is_said else "")
