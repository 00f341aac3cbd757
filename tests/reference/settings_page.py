"""`docs/reference/settings.md`: every setting of a recipe."""

from __future__ import annotations

from itertools import groupby

from reference.markdown import WRITTEN, code, escaped
from spin_trl.config.reference.in_words import facts_of, help_of, kind_in_words, phases_in_words
from spin_trl.config.reference.known import KnownSetting

HEAD = """\
# Settings

Everything that a recipe may have, and behind `--` the command line of `spin-trl run`. Settings of TRL and
transformers are described in their words; what is particular to a run is added. `spin-trl settings WORD` searches the
same list in a terminal, and `spin-trl settings NAME` shows one setting.

- **Types.** A recipe is YAML; on the command line a mapping is JSON, and a list is its values behind the name. A
  setting that may be a list with one value for each iteration takes `'[5e-7,1e-7]'` there.
- **Allowed** numbers are checked when the recipe is read. Outside the **usual** ones a run warns and goes on.
- **A continued run** has its settings frozen in `recipe.yaml`. Only those that decide how it is played and shown may
  change.
- **In Python** the settings are fields of `SPINConfig`, `SelfPlayConfig` and `StartConfig`; `model_name_or_path`,
  `dataset_name` and their like are arguments ([Python API](python.md)).

In an editor, the JSON schema completes names and marks mistakes: `spin-trl schema > recipe.schema.json`, and as the
first line of the recipe `# yaml-language-server: $schema=recipe.schema.json`.

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
