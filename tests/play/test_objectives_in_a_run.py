"""Over several iterations, T-SPIN keeps θ_0's responses, IRIS changes its order, and each iteration is evaluated."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from messages import refused
from runs import answers, build, entry, logp, steps, weights
from spin_trl import SPINTrainer
from spin_trl.errors import RecipeError, RunDirectoryError
from spin_trl.training import start_logps
from trainers import LORA


def metrics(stage: str, run_dir: str | Path = "run") -> dict[str, float]:
    return json.loads(Path(run_dir, stage, "metrics.json").read_text(encoding="utf-8"))


def test_tspin_trains_on_what_iteration_0_generated(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds from iteration 1 on, whatever the opponent has generated since; iteration 0 has no third branch."""
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
    """It is clip(1 + gap / 2, 0.5, 3), after 3 at iteration 0; a small learning rate gives a small gap."""
    build(llama_folder, loss_type="iris", num_iterations=3, learning_rate=1e-3).run()
    orders = [entry("train", f"iteration-{t}")["objective"]["iris_alpha"] for t in range(3)]
    gaps = [metrics(f"iteration-{t}")["gap"] for t in range(2)]
    assert orders[0] == 3.0
    assert orders[1:] == pytest.approx([min(max(1 + gap / 2, 0.5), 3.0) for gap in gaps])
    assert 0.5 < orders[1] < 3.0


@pytest.mark.slow
def test_iris_anneals_over_the_iterations_of_the_run(llama_folder: Path) -> None:
    """It goes from 2.5 to 0.8, so a longer run has other orders and is a different run."""
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
    """Log-ratios come from the log-probabilities that both stages have stored."""
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


# ---- the start, mixed into the opponent --------------------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many responses the start has scored, pass by pass."""
    found: list[int] = []
    response_logps = start_logps.response_logps

    def counted(model: Any, rows: Any, **kwargs: Any) -> list[float]:
        found.append(len(rows))
        return response_logps(model, rows, **kwargs)

    monkeypatch.setattr(start_logps, "response_logps", counted)
    return found


def mixed(llama_folder: Path, run_dir: str = "run", **settings: Any) -> Any:
    known = {"opponent_mix": 0.5, "num_iterations": 3, "history": 1, "learning_rate": 5e-3, "held_out_fraction": 0.0}
    return build(llama_folder, run_dir, **{**known, "metric_for_best_iteration": "nll", **settings})


@pytest.mark.slow
def test_the_start_scores_each_response_of_a_run_once(llama_folder: Path, scored: list[int]) -> None:
    """At iteration 0 the opponent is the start, so it scores nothing; then it scores 15 real responses once, and 15
    generated ones as they come.

    With `history: 1`, iteration 1 also trains on those of iteration 0, and iteration 2 on those of iteration 1, which
    are known by then. At the first step of iteration 1, r and r' are half of log π_1 - log π_0.
    """
    mixed(llama_folder, num_train_epochs=1, per_device_train_batch_size=30).run()
    assert scored == [15, 15, 15, 15]
    first, second = (entry("train", f"iteration-{t}") for t in range(2))
    assert first["first"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert second["objective"] == {"beta": 0.1, "opponent_mix": 0.5}
    start, opponent = (
        AutoModelForCausalLM.from_pretrained(folder) for folder in (llama_folder, "run/iteration-0/model")
    )
    ratios = []
    for row in load_from_disk("run/data/train"):
        prompt, real = row["prompt_ids"], row["real_ids"]
        for generated in (answers("run", f"iteration-{t}")[row["key"], 0] for t in range(2)):
            one, other = (
                (logp(opponent, prompt, response) - logp(start, prompt, response)) / 2
                for response in (real, generated)
            )
            ratios.append(one - other)
    assert max(map(abs, ratios)) > 0.1
    expected = sum(math.log1p(math.exp(-0.1 * ratio)) for ratio in ratios) / len(ratios)
    assert second["first"]["loss"] == pytest.approx(expected, abs=1e-5)
    assert second["first"]["rewards/margins"] == pytest.approx(0.1 * sum(ratios) / len(ratios), abs=1e-4)


@pytest.mark.slow
def test_a_run_that_mixes_the_start_goes_on_to_the_same_bytes(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch, scored: list[int]
) -> None:
    """It is interrupted when iteration 2 begins to train, and some log-probabilities are lost by then."""
    mixed(llama_folder, "whole").run()
    train, calls = SPINTrainer.train, []

    def interrupted(self: SPINTrainer, *arguments: Any, **kwargs: Any) -> Any:
        if type(self) is SPINTrainer:
            calls.append(self)
            if len(calls) == 3:
                raise KeyboardInterrupt
        return train(self, *arguments, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(SPINTrainer, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mixed(llama_folder, "parts").run()
    assert scored == 2 * [15, 15, 15, 15]
    (real,) = Path("parts/start/logps").glob("real-*")
    before = real.read_bytes()
    real.unlink()
    Path("parts/start/logps").joinpath(next(Path("parts/start/logps").glob("iteration-0-*")).name).unlink()
    mixed(llama_folder, "parts").run()
    assert scored[8:] == [15], "those of iteration 0 are no longer trained on"
    assert real.read_bytes() == before
    assert ("lost", "iteration-2") in steps("parts")
    assert weights("parts/iteration-2/model") == weights("whole/iteration-2/model")


@pytest.mark.slow
def test_a_run_with_an_adapter_mixes_its_start(llama_folder: Path, tmp_path: Path, scored: list[int]) -> None:
    """It gets a new adapter around the start; the second iteration's opponent is a frozen copy of the first one's
    adapter.
    """
    mixed(llama_folder, peft_config=LoraConfig(**LORA), num_iterations=2, history=0, learning_rate=5e-2).run()
    assert scored == [15, 15]
    assert entry("train", "iteration-1")["first"]["rewards/margins"] != pytest.approx(0.0, abs=1e-4)
    (file,) = Path("run/start/logps").glob("iteration-1-*")
    logps = json.loads(file.read_text(encoding="utf-8"))["logps"]
    rows = {row["key"]: row["prompt_ids"] for row in load_from_disk("run/data/train")}
    start = AutoModelForCausalLM.from_pretrained(llama_folder)
    expected = [logp(start, rows[key], ids) for (key, _), ids in sorted(answers("run", "iteration-1").items())]
    assert logps == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_an_iteration_that_falls_back_to_the_start_mixes_nothing(llama_folder: Path, scored: list[int]) -> None:
    """After a ruinous learning rate, the opponent is the start again, and the first loss is ln 2."""
    mixed(
        llama_folder, num_iterations=2, history=0, learning_rate=1.0, on_regression="fall_back", held_out_fraction=0.2
    ).run()
    assert entry("generate", "iteration-1")["opponent"] == "start"
    assert scored == []
    assert entry("train", "iteration-1")["first"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert "opponent_mix" in entry("train", "iteration-1")["objective"]
