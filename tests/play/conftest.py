"""What the tests of the loop share."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="session")
def _collect_little() -> None:
    """A run collects garbage after every phase; what the libraries made at import need not be looked through each time."""
    import spin_trl.play.loop  # noqa: F401

    gc.collect()
    gc.freeze()
