"""Settings of servers that exist already are the loop's, with bounds and defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from messages import refused
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.config.server import RELOADS, ServerSettings
from spin_trl.config.traits import FREE
from spin_trl.errors import RecipeError


def test_they_are_settings_of_the_loop_that_may_change() -> None:
    play, names = SelfPlayConfig(), {field.name for field in dataclasses.fields(ServerSettings)}
    assert len(names) == 8
    assert names <= {field.name for field in dataclasses.fields(play)} & set(FREE)
    assert (play.server_urls, play.server_key_variable, play.server_reload) == (None, "VLLM_API_KEY", None)


@pytest.mark.parametrize(("name", "value"), [("server_reload", "now"), ("server_reload_timeout", 0.0)])
def test_what_means_nothing_is_refused(name: str, value: Any) -> None:
    with refused(RecipeError, f"`{name}`", value):
        SelfPlayConfig(**{name: value})


def test_every_way_to_reload_is_allowed() -> None:
    assert [SelfPlayConfig(server_reload=name).server_reload for name in RELOADS] == ["lora", "command", "pause"]
