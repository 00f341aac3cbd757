"""The table of traits names existing settings, each at most once per list."""

import pytest

from spin_trl.config import traits
from spin_trl.config.recipe import known_settings

OTHERS = {"logging_dir", "python", "warmup_ratio"}
"""Keys recorded by runs from Python, and earlier names, which recipes and run directories may still have."""


@pytest.mark.parametrize("trait", ["free", "paths", "of_one_machine", "of_an_arm", "usual"])
def test_every_name_is_a_setting(trait: str) -> None:
    names = traits._NAMES[trait]
    assert len(names) == len(set(names))
    assert set(names) - known_settings() <= OTHERS
