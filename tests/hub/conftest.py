"""A local Hub for tests of this folder."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from huggingface_hub import close_session, constants

from hub.server import TOKEN, LocalHub
from spin_trl.hub import client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the client's own pauses between requests too."""
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A running server for the real client, with a token in the environment and without pauses."""
    with LocalHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # hf_xet's chunked storage needs a separate server; the Hub also accepts git LFS.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(client, "PAUSES", (0.0, 0.0, 0.0))
        close_session()
        yield server
        close_session()
