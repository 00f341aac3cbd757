"""The arguments of `SelfPlay` are interpreted correctly: rows, scorers and the adapter of SFT first."""

import pytest
from datasets import Dataset
from peft import LoraConfig

from messages import refused
from spin_trl import SelfPlayConfig
from spin_trl.config.loop import SMOKE_ROWS
from spin_trl.errors import RecipeError
from spin_trl.evaluation.scoring import Permission
from spin_trl.play.arguments import first_rows, measured_rows_of, scorer_from, sft_adapter
from spin_trl.run.journal import RETENTION, TEST

ROWS = Dataset.from_dict({"prompt": [str(number) for number in range(50)]})


def test_the_rows_of_a_retention_set_are_drawn_and_stay_in_order() -> None:
    """The same rows are drawn each time, at most `retain_max`; a test set is measured as a whole."""
    play = SelfPlayConfig(retain_max=10)
    drawn = [int(prompt) for prompt in measured_rows_of(ROWS, RETENTION, play)["prompt"]]
    assert drawn == sorted(drawn) == [int(prompt) for prompt in measured_rows_of(ROWS, RETENTION, play)["prompt"]]
    assert len(drawn) == 10
    assert drawn != list(range(10))
    assert len(measured_rows_of(ROWS, TEST, play)) == 50


def test_a_smoke_run_takes_few_rows() -> None:
    assert len(measured_rows_of(ROWS, TEST, SelfPlayConfig(smoke=True))) == SMOKE_ROWS
    assert len(first_rows(ROWS, 100)) == 50


def test_scorers_by_name_or_as_a_function() -> None:
    def scorer(prompt: str, real: str, generated: str) -> float:
        return 1.0

    play = SelfPlayConfig()
    assert scorer_from(scorer, play) is scorer
    named = scorer_from("exact_match", play, Permission())
    assert named is not None
    assert named("p", "a", "a") == 1
    with refused(RecipeError, "`scorer`"):
        scorer_from([], play)


@pytest.mark.parametrize(
    ("use", "own", "others", "expected"),
    [
        (None, False, True, 4),
        (None, True, True, 2),
        (False, True, True, None),
        (True, True, False, 2),
        (None, False, False, None),
    ],
)
def test_the_adapter_of_sft(use: bool | None, own: bool, others: bool, expected: int | None) -> None:
    """SFT uses its own adapter, or that of self-play unless `sft_use_peft` is false; without SFT first, there is none."""
    play = SelfPlayConfig(start="sft", sft_use_peft=use)
    given = LoraConfig(r=4) if others else None, LoraConfig(r=2) if own else None
    found = sft_adapter(play, *given)
    assert (None if found is None else found.r) == expected
    assert sft_adapter(SelfPlayConfig(), *given) is None
