"""What a comparison shows of its arms: means over seeds, and why an arm has ended."""

from spin_trl.report.comparison import ArmFigures, summarise_cells


def test_one_seed_of_several_has_no_standard_error() -> None:
    """That over the held-out prompts would be another one."""
    cells = [ArmFigures("space", 0, seed, {"nll": 1.0, "nll_se": 0.1}) for seed in (1, 2)]
    summary = summarise_cells([*cells, ArmFigures("iris", 0, 1, {"nll": 2.0, "nll_se": 0.1})], 2)
    assert summary["space"][0] == {"seeds": 2.0, "nll": 1.0, "nll_se": 0.0}
    assert summary["iris"][0] == {"seeds": 1.0, "nll": 2.0}
    assert summarise_cells(cells[:1], 1)["space"][0] == {"seeds": 1.0, "nll": 1.0, "nll_se": 0.1}
