"""Without any layer, the attempts find that everything is possible."""

from pathlib import Path

from spin_trl.evaluation.isolation.look_around import look_around
from spin_trl.evaluation.isolation.room import Room


def test_without_layers_everything_is_possible(tmp_path: Path) -> None:
    """The attempts are harmless; the file belongs to this test."""
    outside = tmp_path / "outside"
    outside.write_text("as before", encoding="utf-8")
    (found,) = Room([]).play({"look_around": str(outside)}).lines
    assert all(
        found[name] for name in ("reads_outside", "writes_outside", "writes_inside", "forks", "allocates", "enlarges")
    )
    assert found["imports"]
    assert found["process"] > 2
    assert found["variables"] == 0  # the environment is empty in any case
    assert outside.read_text(encoding="utf-8") == "as before"
    assert look_around.__doc__ is not None
    assert all(f"`{name}`" in look_around.__doc__ for name in found)
