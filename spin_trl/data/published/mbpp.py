"""MBPP (Austin et al., arXiv 2108.07732, CC-BY-4.0) as published: Python functions, with the assertions that they must pass.

spin-trl run recipe.yaml --dataset_name spin_trl.data.published.mbpp:load_mbpp --dataset_config mbpp.jsonl
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...counts import counted
from ...errors import DataError
from ...files import home_expanded
from ..held_out import group_of
from ..reading.folder import choose_split
from ..reading.json_rows import read_json_rows

logger = logging.getLogger(__name__)

TASKS: Mapping[str, range] = {"train": range(601, 975), "validation": range(511, 601), "test": range(11, 511)}
"""Values of `task_id` in each split, as in the paper. Tasks 1 to 10 are examples for prompts, in no split."""

_FILE = "mbpp.jsonl"
_TEXT_COLUMNS = ("text", "code")


def load_mbpp(split: str, file: str | None = None) -> Dataset:
    """Load MBPP's published file: each prompt is the text of a task and its first assertion, which names the function.

    The training split lacks the tasks whose text is in the test split, too.

    Args:
        split: `train`, `validation` or `test`. Parts are written like `test[:100]`.
        file: path of `mbpp.jsonl`, or of its folder. In a recipe: `dataset_config`.

    Returns:
        A dataset with the columns `messages`, `test_list` and `test_setup_code`, as the scorer `python_tests` takes them.

    Raises:
        DataError: if there is no such file or split, or a task lacks something.
    """
    if not file:
        raise DataError(
            "MBPP needs `dataset_config`: the path of its published file, mbpp.jsonl, or of the folder that holds it."
        )
    path = home_expanded(file)
    path = path / _FILE if path.is_dir() else path
    tasks = _tasks(path)

    def rows_of(name: str) -> Dataset:
        chosen = [task for task in tasks if task["task_id"] in TASKS[name]]
        if name == "train":
            tested = {group_of(task["text"]) for task in tasks if task["task_id"] in TASKS["test"]}
            every, chosen = chosen, [task for task in chosen if group_of(task["text"]) not in tested]
            if len(chosen) < len(every):
                many = counted(len(every) - len(chosen), "task")
                logger.warning(
                    "%s: %s of the training split left out: the text is also in the test split.", path, many
                )
        if not chosen:
            raise DataError(
                f"{path} has no task of the split {name!r}: `task_id` {TASKS[name][0]} to {TASKS[name][-1]}."
            )
        return Dataset.from_list([row_of(task) for task in chosen])

    return choose_split({name: partial(rows_of, name) for name in TASKS}, split, path)


def row_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task as a row: a conversation, and what the scorer `python_tests` needs. Line ends become line feeds."""
    tests = [_with_plain_ends(test) for test in task["test_list"]]
    prompt = f"{task['text'].strip()}\nYour code should pass this test:\n{tests[0].strip()}"
    messages = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": _with_plain_ends(task["code"]).strip()},
    ]
    return {
        "messages": messages,
        "test_list": tests,
        "test_setup_code": _with_plain_ends(task.get("test_setup_code") or ""),
    }


def _tasks(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"There is no file {path}, which `dataset_config` names. Is it MBPP's mbpp.jsonl?")
    tasks: list[dict[str, Any]] = read_json_rows([path], "train", {}, bad_as_rows=False).to_list()
    for number, task in enumerate(tasks):
        tests = task.get("test_list")
        missing = [name for name in _TEXT_COLUMNS if not isinstance(task.get(name), str)]
        missing += [] if isinstance(tests, list) and tests and isinstance(tests[0], str) else ["test_list"]
        missing += [] if isinstance(task.get("task_id"), int) else ["task_id"]
        if missing:
            raise DataError(f"{path}, row {number} has no usable `{missing[0]}`. Is it MBPP's mbpp.jsonl?")
    return tasks


def _with_plain_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
