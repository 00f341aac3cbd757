"""Traits of settings apart from their types. `traits.yaml` lists the settings that have each trait."""

from __future__ import annotations

from pathlib import Path

import yaml

_NAMES: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

FREE = frozenset(_NAMES["free"])
"""Settings that may change when a run is continued: they affect how it is played and shown, but not its results."""

PATHS = frozenset(_NAMES["paths"])
"""Settings that may name a file or a folder."""

OF_ONE_MACHINE = frozenset(_NAMES["of_one_machine"])
"""Settings that tell where a run was played and where its results went. The recipe in a model card leaves them out."""

OF_AN_ARM = frozenset(_NAMES["of_an_arm"])
"""Settings of the optimiser step that each arm of a comparison may set for itself, in addition to those of its losses."""

OF_PREFERENCES = frozenset(_NAMES["of_preferences"])
"""Settings of an iteration that supervised training does not share, although SFTConfig has settings of the same name."""

OF_SFT_PACE = frozenset(_NAMES["of_sft_pace"])
"""Settings of SFTConfig whose values for SFT first do not come from an iteration: how fast it learns, and for how long."""

SET_BY_SFT = frozenset(_NAMES["set_by_sft"])
"""Settings of SFTConfig that the run itself sets for SFT first, so that `sft_X` may not."""

OF_DPO_PACE = frozenset(_NAMES["of_dpo_pace"])
"""Settings of DPOConfig whose values for DPO on top do not come from an iteration: its loss, its pace and its length."""

SET_BY_DPO = frozenset(_NAMES["set_by_dpo"])
"""Settings of DPOConfig that the run itself sets for DPO on top, so that `dpo_X` may not."""

HARMLESS_MODEL_KWARGS = frozenset(_NAMES["harmless_model_kwargs"])
"""Keys of `model_init_kwargs` that run no code. All others are treated as code."""

HARMLESS_VARIABLES = frozenset(_NAMES["harmless_variables"])
"""Environment variables that the settings of a run directory may set."""

OF_LAUNCHERS = frozenset(_NAMES["of_launchers"])
"""Environment variables that a launcher sets for each of its processes."""

USUAL_SETTINGS = frozenset(_NAMES["usual"])
"""Settings of TRL that nearly every run changes and whose values are checked elsewhere: they need no rehearsal."""

GIVEN, SFT_FIRST = "given", "sft"
"""Values of `start`: θ_0 is the given model, or is trained from it with SFT."""

EQUAL_STEPS, EQUAL_COMPUTE = EQUAL = "steps", "compute"
"""Values of `baseline_equal`: what the baseline arms have in common with self-play."""

SFT_PREFIX = "sft_"
"""Prefix of the settings of TRL's SFTConfig in a recipe."""

DPO_PREFIX = "dpo_"
"""Prefix of the settings of TRL's DPOConfig for DPO on top in a recipe."""

TRL_PREFIXES = (SFT_PREFIX, DPO_PREFIX)
"""Prefixes of the settings that a recipe passes to a config of TRL."""
