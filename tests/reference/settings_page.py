"""`docs/reference/settings.md`: every setting of a recipe."""

from __future__ import annotations

from itertools import groupby

from reference.markdown import WRITTEN, code, escaped
from spin_trl.config.reference.in_words import facts_of, help_of, kind_in_words, phases_in_words
from spin_trl.config.reference.known import KnownSetting

HEAD = """\
# Settings

All settings of a recipe. On the command line of `spin-trl run` they are options (`--learning_rate 1e-6`). Settings of TRL
and transformers have their own descriptions, with notes on what differs in a run. In a terminal, `spin-trl settings WORD`
searches this list, and `spin-trl settings NAME` shows one setting.

- **Types.** A recipe is YAML. On the command line, write a mapping as JSON, a list as its values separated by spaces, and
  a list with one value for each iteration as `'[5e-7,1e-7]'`.
- **Allowed** values are checked when the recipe is read. A value outside the **usual** range only causes a warning.
- **A resumed run** uses the settings frozen in its `recipe.yaml`. Only settings that don't affect finished results may
  change.
- **In Python**, settings are fields of `SPINConfig`, `SelfPlayConfig` and `StartConfig`. The model and the datasets are
  arguments instead of `model_name_or_path`, `dataset_name` and so on ([Python API](python.md)).

An editor completes names and marks mistakes with the JSON schema: run `spin-trl schema > recipe.schema.json`, and make
`# yaml-language-server: $schema=recipe.schema.json` the first line of the recipe.

"""


def page(settings: list[KnownSetting], versions: dict[str, str | None]) -> str:
    groups = {title: list(part) for title, part in groupby(settings, lambda setting: setting.group)}
    contents = "".join(f"- [{title}](#{anchor(title)}): {links(part)}\n" for title, part in groups.items())
    sections = "".join(section(title, part, settings) for title, part in groups.items())
    tried = f"{len(settings)} settings, with TRL {versions['trl']} and transformers {versions['transformers']}.\n\n"
    return f"{WRITTEN}{HEAD}{tried}{contents}{sections}"


def links(part: list[KnownSetting]) -> str:
    """Return links to the entries of settings."""
    return ", ".join(f"[`{setting.name}`](#{setting.name})" for setting in part)


def anchor(title: str) -> str:
    """Return the anchor of a heading, as GitHub and the site generate it."""
    return "".join(sign for sign in title.lower().replace(" ", "-") if sign.isalnum() or sign == "-")


def section(title: str, part: list[KnownSetting], settings: list[KnownSetting]) -> str:
    used = phases_in_words(part[0])
    return f"\n## {title}\n\nUsed by: {used}.\n" + "".join(entry(setting, settings) for setting in part)


def entry(setting: KnownSetting, settings: list[KnownSetting]) -> str:
    known = facts_of(setting, settings)
    if setting.choices is not None:
        known["type"] = f"{kind_in_words(setting, choices=False)}: {code(*setting.choices)}"
    if setting.default is not None and "default" in known:
        known["default"] = f"`{known['default']}`"
    if "also called" in known:
        known["also called"] = code(*setting.names_elsewhere)
    lines = [f"- {name.capitalize()}: {text if '`' in text else escaped(text)}\n" for name, text in known.items()]
    shown = [line for line in lines if not line.startswith("- Used by")]
    return f"\n### `{setting.name}`\n\n{escaped(help_of(setting))}\n\n" + "".join(shown)
