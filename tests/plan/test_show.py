"""A plan on a terminal shows short numbers, no more precise than is known."""

from __future__ import annotations

import dataclasses
import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.table import Table

from messages import names, refused
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.errors import RecipeError
from spin_trl.plan.costs import Work
from spin_trl.plan.devices import DEVICES
from spin_trl.plan.planning import Advice
from spin_trl.plan.show import (
    GIB,
    _gib,
    _hours,
    _many,
    devices_table,
    hours_table,
    show_batch_size,
    show_judge,
    show_judged,
    show_model,
    show_verdict,
)
from spin_trl.report import terminal


def printed(table: Table) -> list[list[str]]:
    """Return the cells of a table, row by row."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, ""), (7, "7"), (999, "999"), (1_234, "1.2 k"), (99_600, "99.6 k"), (1_500_000, "1.5 M"), (3.2e9, "3.2 G")],
)
def test_tokens_are_counted_in_thousands(count: float, expected: str) -> None:
    assert _many(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, ""),
        (3.6, "0.001"),
        (360, "0.10"),
        (3600, "1.00"),
        (9.94 * 3600, "9.94"),
        (36_000, "10.0"),
        (3.6e6, "1,000.0"),
    ],
)
def test_hours_have_digits_as_they_are_needed(seconds: float, expected: str) -> None:
    assert _hours(seconds) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (GIB, "1.0"), (GIB / 50, "0.020"), (78.96 * GIB, "79.0")])
def test_bytes_are_shown_in_gib(count: float, expected: str) -> None:
    assert _gib(count) == expected


def plan(peak: float, most: float, obstacle: str | None = None, seconds: float = 7200) -> Any:
    """Return a plan with these peaks in GiB, as planned and with the longest responses."""
    return SimpleNamespace(
        setup=SimpleNamespace(num_processes=2),
        peak=SimpleNamespace(total=peak * GIB, name="train"),
        worst=SimpleNamespace(total=most * GIB, name="evaluate"),
        smaller_rows=lambda phase: [f"smaller_{phase.name}"],
        fits=lambda device: peak <= device.memory,
        fits_surely=lambda device: most <= device.memory,
        obstacle=lambda device: None if device.has_bf16 else obstacle,
        work=lambda device: [Work("start", {}), Work("iteration-0", {"train": seconds})],
    )


def test_a_plan_begins_with_the_recipe_as_the_user_named_it() -> None:
    """The name is `recipe.yaml`, not that of the folder that contains it."""
    file = io.StringIO()
    recipe = SimpleNamespace(
        name="home", model=SimpleNamespace(model_name_or_path="org/model", load_in_4bit=False, load_in_8bit=False)
    )
    shown = SimpleNamespace(
        source="recipe.yaml",
        setup=SimpleNamespace(
            recipe=recipe, peft=None, checkpointing=False, dtype="torch.float32", precision="no",
            sharding=SimpleNamespace(described="one process"), play=SimpleNamespace(then_dpo=None),
        ),
        memory=SimpleNamespace(policy=SimpleNamespace(num_parameters=1_234), shares_prompts=lambda: True),
        lengths=SimpleNamespace(num_rows=3, num_held_out=1, prompt=2, real=5, described="counted", preferences=None),
    )  # fmt: skip
    show_model(terminal.console(file, 200), shown)  # type: ignore[arg-type]
    first = file.getvalue().splitlines()[0]
    assert first.startswith("recipe.yaml: org/model")
    assert names(first, "1,234")


def test_a_plan_says_what_judges_the_models() -> None:
    """Its test and retention sets are those that the recipe names; tasks measure retention, too."""
    for data, tasks, is_missing in (({}, None, True), ({"test_name": "t", "retain_name": "r"}, None, False)):
        file = io.StringIO()
        named = SimpleNamespace(**{"test_name": None, "retain_name": None, **data})
        recipe = SimpleNamespace(data=named, play=SelfPlayConfig(scorer="json", retain_tasks=tasks))
        setup = SimpleNamespace(recipe=recipe)
        shown = SimpleNamespace(setup=setup, lengths=SimpleNamespace(num_held_out=7))
        show_judged(terminal.console(file, 200), shown)  # type: ignore[arg-type]
        said = file.getvalue()
        assert names(said, 7, "json", "`evaluate_greedy`")
        assert names(said, "`test_name`") == names(said, "`retain_name`") == is_missing


@pytest.mark.parametrize(
    ("given", "on_gpu", "device", "parts"),
    [
        ("auto", True, 80 * GIB, ("`generation_batch_size: auto`", 128, "80.0 GiB")),
        ("auto", True, None, ("`generation_batch_size: auto`", 128, "GPU")),
        ("auto", False, 8 * GIB, ("`generation_batch_size: auto`", 128, "CPU")),
        (128, True, 80 * GIB, None),
    ],
)
def test_an_automatic_batch_size_is_shown(given: Any, on_gpu: bool, device: Any, parts: Any) -> None:
    file = io.StringIO()
    setup = SimpleNamespace(args=SimpleNamespace(generation_batch_size=given), on_gpu=on_gpu)
    shown = SimpleNamespace(setup=setup, memory=SimpleNamespace(batch_size=128, device_bytes=device))
    show_batch_size(terminal.console(file, 200), shown)  # type: ignore[arg-type]
    assert names(file.getvalue(), *parts) if parts else file.getvalue() == ""


def test_where_answers_would_be_sent_is_shown() -> None:
    file = io.StringIO()
    judged = SelfPlayConfig(scorer="judge", judge_url="https://judge.example/v1", judge_model="wise")
    show_judge(terminal.console(file, 200), SelfPlayConfig())
    assert file.getvalue() == ""
    show_judge(terminal.console(file, 200), judged)
    assert names(file.getvalue(), "wise", "judge.example", "off", "2,000")
    with refused(RecipeError, "`judge_rubric`"):
        show_judge(terminal.console(file, 200), dataclasses.replace(judged, judge_rubric="none.yaml"))


def test_iterations_that_are_alike_stand_together() -> None:
    """A stage without work has no column; totals cover all iterations."""
    alike = [Work(f"iteration-{number}", {"generate": 3600, "train": 7200}, 1000, 5000, 10) for number in range(3)]
    last = Work("iteration-3", {"generate": 3600, "train": 3600}, 1000, 2000, 4)
    table = hours_table(plan(1, 1), [Work("start", {}), *alike, last])
    assert [column.header for column in table.columns] == ["", "iteration-0 to 2, each", "iteration-3", "run"]
    assert printed(table)[:5] == [
        ["steps", "10", "4", "34"],
        ["tokens sampled", "1.0 k", "1.0 k", "4.0 k"],
        ["tokens trained on", "5.0 k", "2.0 k", "17.0 k"],
        ["generate", "1.00", "1.00", "4.00"],
        ["train", "2.00", "1.00", "7.00"],
    ]


def test_a_short_run_is_shown_in_seconds() -> None:
    """A tiny model's hours would be 0.000."""
    work = [Work("iteration-0", {"generate": 1.2, "train": 300}, 1000, 5000, 10)]
    table = hours_table(plan(1, 1), work)
    assert table.title == "Seconds"
    assert printed(table)[3:] == [["generate", "1", "1"], ["train", "300", "300"], ["total", "301", "301"]]
    longer = [Work("iteration-0", {"train": 360}, 1000, 5000, 10)]
    assert hours_table(plan(1, 1), longer).title == "Hours"


def test_every_gpu_is_shown_with_whether_it_holds_the_run() -> None:
    rows = {row[0]: row for row in printed(devices_table(plan(20, 30, "no bfloat16"), list(DEVICES.values())))}
    assert rows["t4"][2:] == ["no bfloat16", "20.0", ""]
    assert rows["l4"][2:] == ["fits, except worst case", "20.0", "2.00"]
    assert rows["a100-40"][2:] == ["fits", "20.0", "2.00"]
    small = {row[0]: row for row in printed(devices_table(plan(30, 30), list(DEVICES.values())))}
    assert small["l4"][2:] == ["does not fit", "30.0", ""]


@pytest.mark.parametrize(
    ("peak", "most", "said", "unsaid"),
    [
        (20, 21, ("Fits", "l4", "20.0 of 22.0 GiB", "`train`"), ("Does not fit",)),
        (
            20,
            25,
            ("Fits", "20.0 of 22.0 GiB", "`train`", "25.0 GiB", "`evaluate`", "`smaller_evaluate`"),
            ("Does not fit",),
        ),
        (30, 35, ("Does not fit", "`optim: sgd`", "12.0"), ("No change",)),
    ],
)
def test_the_verdict_says_whether_it_fits_and_what_to_change(
    peak: float, most: float, said: tuple[str, ...], unsaid: tuple[str, ...]
) -> None:
    file = io.StringIO()
    advice = [Advice(("optim",), "`optim: sgd`", "worse steps", 12 * GIB, True)] if peak > 22 else []
    show_verdict(terminal.console(file, 200), plan(peak, most), DEVICES["l4"], advice, None)
    assert names(file.getvalue(), *said)
    assert not any(names(file.getvalue(), one) for one in unsaid)


def test_where_nothing_helps_that_is_said() -> None:
    file = io.StringIO()
    advice = [Advice(("optim",), "optim: sgd", "worse steps", 25 * GIB, False)]
    more = Advice(("accelerate_config",), "accelerate_config: zero3, on 2 GPUs", "", 15 * GIB, True)
    show_verdict(terminal.console(file, 200), plan(30, 30), DEVICES["l4"], advice, more)
    assert names(file.getvalue(), "No change", "25.0 GiB", 22.0, "`accelerate_config: zero3, on 2 GPUs`", "15.0 GiB")
