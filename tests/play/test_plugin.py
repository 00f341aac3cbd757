"""The launcher's plugin is recognised by the variables that accelerate sets."""

import pytest

from spin_trl.play.plugin import training_plugin


@pytest.mark.parametrize(
    ("variable", "value", "plugin"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "True", "DeepSpeed"),
        ("ACCELERATE_USE_FSDP", "false", None),
    ],
)
def test_the_plugin_is_named(variable: str, value: str, plugin: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert training_plugin() == plugin
