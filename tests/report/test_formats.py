"""Numbers are formatted for people."""

import math

import pytest

from spin_trl.evaluation.intervals import Difference
from spin_trl.report.formats import NumberFormat, capitalised, duration

SHARE = NumberFormat(percent=True, digits=1)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (SHARE.value(0.6557), "65.6\u00a0%"),
        (SHARE.value(None), "–"),
        (SHARE.value(math.nan), "–"),
        (SHARE.interval(0.1, 0.25), "10.0 to 25.0"),
        (SHARE.interval(-0.1, 0.25, "+"), "\u221210.0 to +25.0"),
        (SHARE.difference(-0.05), "\u22125.0\u00a0points"),
        (SHARE.difference(-0.0001), "+0.0\u00a0points"),
        (SHARE.size(-0.05), "5.0\u00a0points"),
        (SHARE.size_interval(Difference(-0.2, -0.25, -0.1, 0.0, 100)), "10.0 to 25.0"),
        (NumberFormat(digits=3).value(0.06138), "0.061"),
        (NumberFormat(digits=0).value(12345.0), "12,345"),
        (NumberFormat(digits=2, unit="nats").difference(1.5), "+1.50\u00a0nats"),
        (NumberFormat(digits=3).at_least(0.00042).size(0.00042), "0.0004"),
        (SHARE.at_least(0.5), SHARE),
        (SHARE.at_least(0.0), SHARE),
        (duration(4.21), "4.2\u00a0s"),
        (duration(59.97), "1\u00a0min 0\u00a0s"),
        (duration(152.4), "2\u00a0min 32\u00a0s"),
        (duration(3600 * 3 + 60 * 5 + 29), "3\u00a0h 5\u00a0min"),
    ],
)
def test_a_number_is_written(written, text):
    assert written == text


def test_a_capital_changes_nothing_behind_it() -> None:
    assert [capitalised(text) for text in ("", "the NLL", "θ_0")] == ["", "The NLL", "Θ_0"]
