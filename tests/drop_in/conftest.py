"""Every test that takes `kind` runs twice: with DPOTrainer, which defines what is right, and with SPINTrainer."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("drop_in.compare")

from drop_in import compare


@pytest.fixture(params=[0, 1], ids=["DPOTrainer", "SPINTrainer"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> compare.Kind:
    """Return the trainer class under test."""
    return compare.kinds(str(tmp_path))[request.param]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Return the folder that the trainers of a test write to."""
    return str(tmp_path)
