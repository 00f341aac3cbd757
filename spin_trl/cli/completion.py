"""`spin-trl completion`: print a shell script that completes commands, options, settings and recipe names."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from ..config import shipped
from ..config.reference.listed import every_setting
from ..errors import RecipeError
from .commands import add_command
from .session import quieten

SHELLS = ("bash", "zsh", "fish")

_RECIPES = {
    "bash": '_spin_trl_recipes() { compgen -W "NAMES" -- "$1"; compgen -f -- "$1"; }',
    "zsh": "_spin_trl_recipes() { _alternative 'recipes:recipe:(NAMES)' 'files:file:_files' }",
}
_COMPLETES_RECIPES = {
    "bash": "_spin_trl_recipes",
    "zsh": "_spin_trl_recipes",
    "fish": "(string split ' ' 'NAMES'; __fish_complete_path (commandline -ct))",
}
"""How each shell completes a recipe: the names of the shipped recipes, and paths."""

_SCRIPTS = """\
Print a completion script for a shell. It completes commands, options, settings and the names of shipped recipes:
  bash   spin-trl completion bash > ~/.local/share/bash-completion/completions/spin-trl
  zsh    spin-trl completion zsh > FOLDER/_spin-trl, with FOLDER in $fpath
  fish   spin-trl completion fish > ~/.config/fish/completions/spin-trl.fish
"""


def add(commands: Any) -> None:
    """Add the command."""
    what = "print a script for shell completion of commands, options and settings"
    parser = add_command(commands, "completion", write_script, help=what, description=_SCRIPTS, takes_settings=False)
    parser.add_argument("shell", choices=SHELLS, help="shell to complete in")
    parser.set_defaults(commands=commands)


def write_script(options: argparse.Namespace, overrides: list[str]) -> None:
    """Print the script."""
    try:
        shtab: Any = importlib.import_module("shtab")
    except ModuleNotFoundError as error:
        raise RecipeError("Shell completion needs the package shtab: `pip install shtab`.") from error
    quieten()
    print(shtab.complete(_whole_command_line(options.commands, shtab.FILE, shtab.DIRECTORY), options.shell))


def _whole_command_line(commands: Any, file: Any, folder: Any) -> argparse.ArgumentParser:
    """Return a parser of the command line in which settings are ordinary options and paths can be completed.

    Args:
        commands: argparse subparsers of all commands.
        file, folder: shtab's completions for files and for folders.
    """
    names = " ".join(sorted(shipped.recipes()))
    preamble = {shell: text.replace("NAMES", names) for shell, text in _RECIPES.items()}
    recipe = {shell: text.replace("NAMES", names) for shell, text in _COMPLETES_RECIPES.items()}
    completes = {"recipe": recipe | {"preamble": preamble}, "run": folder, "data": file, "output": file}
    settings = sorted(every_setting(), key=lambda setting: setting.name)
    parser = argparse.ArgumentParser(prog="spin-trl", allow_abbrev=False)
    described = parser.add_subparsers(dest="command", metavar="COMMAND")
    helps = {action.dest: action.help for action in commands._choices_actions}
    for name, command in commands.choices.items():
        one = described.add_parser(name, help=helps.get(name, ""), allow_abbrev=False)
        for action in command._actions:
            if action.dest != "help":
                one._add_action(action)
            if action.dest in completes:
                action.complete = completes[action.dest]
        if command.get_default("takes_settings"):
            for setting in settings:
                if f"--{setting.name}" not in one._option_string_actions:
                    one.add_argument(f"--{setting.name}", help="a setting of the recipe")
    return parser
