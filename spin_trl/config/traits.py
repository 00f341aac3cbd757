"""What is true of a setting besides its type. The names stand in `traits.yaml`."""

from __future__ import annotations

from pathlib import Path

import yaml

_NAMES: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

FREE = frozenset(_NAMES["free"])
"""Settings that may change when a run is continued: they decide how it is played and shown, not what comes out."""

PATHS = frozenset(_NAMES["paths"])
"""Settings that may name a file or a folder."""

OF_ONE_MACHINE = frozenset(_NAMES["of_one_machine"])
"""Settings that a card's recipe leaves out: they say where a run was played, and where it went."""

OF_AN_ARM = frozenset(_NAMES["of_an_arm"])
"""Settings that an arm may have for itself, beside those of its losses: how it steps. The rest all arms share."""

HARMLESS_MODEL_KWARGS = frozenset(_NAMES["harmless_model_kwargs"])
"""Keys of `model_init_kwargs` that run no code of anybody's. Others count as code, whatever they do."""

HARMLESS_VARIABLES = frozenset(_NAMES["harmless_variables"])
"""Variables of the environment that the settings of a run directory may set."""

OF_LAUNCHERS = frozenset(_NAMES["of_launchers"])
"""Variables of the environment that a launcher sets for each of its processes."""

USUAL_SETTINGS = frozenset(_NAMES["usual"])
"""Settings of TRL's that nearly every run changes, and whose values are checked otherwise: they need no rehearsal."""
