"""A Hub of one's own for every test of this folder that asks for it."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from huggingface_hub import close_session, constants

from hub.server import TOKEN, LocalHub
from spin_trl.hub import client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own pauses between requests are none, either."""
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A running server that the real client talks to, with a token in the environment, and pauses that are none."""
    with LocalHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # The chunked storage of hf_xet has a server of its own; the Hub takes git LFS, too.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(client, "PAUSES", (0.0, 0.0, 0.0))
        close_session()
        yield server
        close_session()
