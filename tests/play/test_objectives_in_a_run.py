"""Objectives over several iterations: T-SPIN keeps θ_0's responses, IRIS changes its order, each iteration is evaluated."""

import json
from pathlib import Path
from typing import Any

import pytest

from messages import refused
from runs import answers, build, entry, steps, weights
from spin_trl import SPINTrainer
from spin_trl.errors import RecipeError, RunDirectoryError


def metrics(stage: str, run_dir: str | Path = "run") -> dict[str, float]:
    return json.loads(Path(run_dir, stage, "metrics.json").read_text(encoding="utf-8"))


def test_tspin_trains_on_what_iteration_0_generated(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From iteration 1 on, whatever the iteration's opponent generated; at iteration 0 there is no third branch."""
    seen: list[Any] = []
    train = SPINTrainer.train

    def spy(self: SPINTrainer, *arguments: Any, **kwargs: Any) -> Any:
        if type(self) is SPINTrainer:  # not the rehearsal that precedes a run
            seen.append(self.data_collator.proto)
        return train(self, *arguments, **kwargs)

    monkeypatch.setattr(SPINTrainer, "train", spy)
    build(llama_folder, loss_type="tspin", num_iterations=3).run()
    first = {(key, 0, sample): ids for (key, sample), ids in answers("run", "iteration-0").items()}
    assert seen[0] is None
    assert dict(seen[1]) == dict(seen[2]) == first
    assert answers("run", "iteration-2") != answers("run", "iteration-0")
    assert entry("train", "iteration-2")["objective"] == {"tspin_alpha": 1.0, "tspin_beta": 0.1}


@pytest.mark.slow
def test_a_longer_tspin_run_goes_on_to_the_same_result(llama_folder: Path) -> None:
    """θ_0's responses outlive the process that generated them."""
    build(llama_folder, "whole", loss_type="tspin", num_iterations=3).run()
    build(llama_folder, "parts", loss_type="tspin", num_iterations=2).run()
    build(llama_folder, "parts", loss_type="tspin", num_iterations=3).run()
    assert weights("parts/iteration-2/model") == weights("whole/iteration-2/model")
    assert steps("parts") == steps("whole")


def test_iris_takes_its_order_from_the_gap_of_the_iteration_before(llama_folder: Path) -> None:
    """clip(1 + gap / 2, 0.5, 3), after 3 at iteration 0; a small learning rate gives a small gap."""
    build(llama_folder, loss_type="iris", num_iterations=3, learning_rate=1e-3).run()
    orders = [entry("train", f"iteration-{t}")["objective"]["iris_alpha"] for t in range(3)]
    gaps = [metrics(f"iteration-{t}")["gap"] for t in range(2)]
    assert orders[0] == 3.0
    assert orders[1:] == pytest.approx([min(max(1 + gap / 2, 0.5), 3.0) for gap in gaps])
    assert 0.5 < orders[1] < 3.0


@pytest.mark.slow
def test_iris_anneals_over_the_iterations_of_the_run(llama_folder: Path) -> None:
    """2.5 to 0.8, so a longer run has other orders and is a different run."""
    build(llama_folder, loss_type="iris", iris_schedule="geometric", num_iterations=2).run()
    orders = [entry("train", f"iteration-{t}")["objective"]["iris_alpha"] for t in range(2)]
    assert orders == pytest.approx([2.5, 0.8])
    with refused(RunDirectoryError, "num_iterations: was 2", "`run_dir`"):
        build(llama_folder, loss_type="iris", iris_schedule="geometric", num_iterations=3).run()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"loss_type": "iris", "held_out_fraction": 0.0}, ("`iris_schedule: gap`", "`held_out_fraction`")),
        (
            {"loss_type": "iris", "iris_schedule": "fixed", "iris_alpha": [1.0, 2.0, 3.0]},
            ("`iris_alpha`", "3 values", "2 iterations"),
        ),
        ({"loss_type": "space", "per_iteration": {"beta": [0.1, 5.0]}}, ("`beta`", "'space'")),
        ({"loss_type": "spni"}, ("`loss_type`", "'spni'", "'spif'")),
    ],
    ids=["gap", "orders", "beta", "unknown loss"],
)
def test_what_does_not_fit_is_refused_before_anything_is_generated(
    settings: dict[str, Any], parts: tuple[str, ...], llama_folder: Path
) -> None:
    with refused(RecipeError, *parts):
        build(llama_folder, **settings).run()
    assert not list(Path().glob("run/**/*.parquet"))


@pytest.mark.slow
def test_an_iteration_is_measured_as_a_game_against_its_opponent(llama_folder: Path) -> None:
    """Log-ratios from the log-probabilities that both stages have stored."""
    build(llama_folder, loss_type="space", num_iterations=2).run()
    before, after = (
        json.loads(Path("run", s, "held-out/logps.json").read_text(encoding="utf-8")) for s in ("start", "iteration-0")
    )
    ratios = [after[key]["real"] - before[key]["real"] for key in after]
    found = metrics("iteration-0")
    assert found["logratio/real"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-6)
    assert found["gap"] == pytest.approx(found["logratio/real"] - found["logratio/generated"])
    assert found["kl"] == pytest.approx(-found["logratio/generated"])
    assert found["coefficient/real_start"] == pytest.approx(-0.5)
    assert found["coefficient/generated_start"] == pytest.approx(0.5)
    assert -0.5 < found["coefficient/real_end"] < 0
    assert 0 < found["pairs_in_play/generated"] <= 1
    spread = json.loads(Path("run/iteration-0/histograms.json").read_text(encoding="utf-8"))
    assert sum(spread["real"]) == sum(spread["generated"]) == found["held_out"]
    assert "gap" not in metrics("start")
