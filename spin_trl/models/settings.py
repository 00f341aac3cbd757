"""What loading a model or its files asks of the settings: every configuration that has it will do."""

from __future__ import annotations

from typing import Any, Protocol


class LoadSettings(Protocol):
    """Settings that say how a model is loaded, as [`SPINConfig`] has them."""

    trust_remote_code: bool
    """Whether code that lies beside the model may run."""

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Further arguments of `from_pretrained`, such as `dtype` and `revision`."""
