"""Any SFT dataset becomes rows of prompt and real response; unusable input is named by file, line or row."""

import contextlib
import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset

import tiny
from messages import names, refused
from spin_trl.data.columns import PREPARED_COLUMNS, is_sft
from spin_trl.data.held_out import split_held_out
from spin_trl.data.load import load_rows, rename_columns
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import EncodedPair, PairTemplate
from spin_trl.errors import DataError, TemplateError

U, A = "user", "assistant"


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def prepared(rows: list[dict[str, Any]] | Dataset, **options: Any) -> list[tuple[str, str]]:
    """Return prompt and real response of every row that is trained on, as text with special tokens."""
    tokenizer = tiny.tokenizer()
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    found = prepare(dataset, PairTemplate(tokenizer), **options)
    return [(tokenizer.decode(row["prompt_ids"]), tokenizer.decode(row["real_ids"])) for row in found]


def chat(*turns: str) -> str:
    """Return the prompt of a conversation, written out by hand."""
    written = [f"<|im_start|>{(U, A)[i % 2]}\n{text}<|im_end|>\n" for i, text in enumerate(turns)]
    return "".join(written) + "<|im_start|>assistant\n"


# ---- formats ------------------------------------------------------------------------------------------------------------

CONVERSATION = [message(U, "Which?"), message(A, "A boat.")]
FORMATS = {
    "messages": {"messages": CONVERSATION},
    "prompt and completion as messages": {"prompt": CONVERSATION[:1], "completion": CONVERSATION[1:]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "A boat."}]},
    "conversations": {"conversations": CONVERSATION},
    "prompt and completion, from and value": {
        "prompt": [{"from": "human", "value": "Which?"}],
        "completion": [{"from": "gpt", "value": "A boat."}],
    },
    "messages beside other columns": {"prompt": "Which?", "prompt_id": "7", "messages": CONVERSATION},
    "messages with fields that are empty": {
        "messages": [{**part, "name": None, "tool_calls": None} for part in CONVERSATION]
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_conversations_of_every_format_become_the_same_tokens(name: str) -> None:
    """The names of columns and roles do not matter."""
    assert is_sft(Dataset.from_list([FORMATS[name]]))
    assert prepared([FORMATS[name]]) == [(chat("Which?"), "A boat.<|im_end|>")]


def test_text_is_tokenised_as_it_stands() -> None:
    """No chat template is applied."""
    assert prepared([{"prompt": "Which?", "completion": " A boat."}]) == [("Which?", " A boat.<|im_end|>")]


def test_a_column_mapping_takes_any_names() -> None:
    """`question` and `answer` become text in the standard format."""
    rows = rename_columns(tiny.sft(1, "question-answer"), {"question": "prompt", "answer": "completion"})
    question = tiny.sft(1, "question-answer")[0]
    assert prepared(rows) == [(question["question"], question["answer"] + "<|im_end|>")]


def test_a_system_message_belongs_to_the_prompt() -> None:
    """All messages before the response belong to the prompt."""
    rows = [{"messages": [message("system", "Be brief."), *CONVERSATION]}]
    assert prepared(rows) == [("<|im_start|>system\nBe brief.<|im_end|>\n" + chat("Which?"), "A boat.<|im_end|>")]


def test_prepared_rows_show_their_texts() -> None:
    """Scorers and samples get the prompt's last message and the response as text."""
    rows = prepare(tiny.sft(3, "multi-turn"), PairTemplate(tiny.tokenizer()))
    assert set(rows.column_names) == {*PREPARED_COLUMNS, "conversation", "prompt_group"}
    for row, source in zip(rows, tiny.sft(3, "multi-turn"), strict=True):
        assert row["prompt"] == source["messages"][2]["content"]
        assert row["real"] == source["messages"][3]["content"]


def test_prepared_rows_are_not_prepared_again() -> None:
    """A run prepares its data once and passes the rows on."""
    rows = prepare(tiny.sft(3), PairTemplate(tiny.tokenizer()))
    assert prepare(rows, PairTemplate(tiny.tokenizer())) is rows
    assert is_sft(rows)


TURNS = [message(U, "One?"), message(A, "1."), message(U, "Two?"), message(A, "2.")]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("last", [(chat("One?", "1.", "Two?"), "2.<|im_end|>")]),
        ("first", [(chat("One?"), "1.<|im_end|>")]),
        ("all", [(chat("One?"), "1.<|im_end|>"), (chat("One?", "1.", "Two?"), "2.<|im_end|>")]),
    ],
)
def test_the_turns_that_are_trained_on_can_be_chosen(turn: str, expected: list[tuple[str, str]]) -> None:
    """The default is the last one."""
    assert prepared([{"messages": TURNS}], turn=turn) == expected
    if turn == "last":
        assert prepared([{"messages": TURNS}]) == expected


def test_turns_of_the_prompt_are_not_trained_on() -> None:
    """With `prompt` and `completion`, earlier answers belong to the prompt for every value of `turn`."""
    row = {"prompt": TURNS[:3], "completion": TURNS[3:]}
    assert prepared([row], turn="all") == prepared([row], turn="first") == prepared([{"messages": TURNS}])


def test_what_follows_the_response_is_left_out() -> None:
    """A conversation may end with the user's thanks."""
    assert prepared([{"messages": [*CONVERSATION, message(U, "Thanks!")]}]) == [(chat("Which?"), "A boat.<|im_end|>")]


def test_an_assistants_greeting_answers_nothing() -> None:
    """ShareGPT's conversations may begin with the model, whose first turn then has no prompt."""
    rows = [{"messages": [message(A, "Hello."), *CONVERSATION]}]
    (answer,) = prepared(rows, turn="all")
    assert answer[1] == "A boat.<|im_end|>"
    assert answer[0].startswith("<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nWhich?")


def test_a_rows_tools_and_template_arguments_reach_its_prompt() -> None:
    """Each row has its own; columns that Arrow filled with nulls count as absent."""
    tools = [{"type": "function", "function": {"name": "find_boat"}}]
    rows = [
        {"messages": CONVERSATION, "tools": json.dumps(tools), "chat_template_kwargs": {"style": "terse", "x": None}},
        {"messages": CONVERSATION, "tools": None, "chat_template_kwargs": None},
    ]
    (with_both, _), (plain, _) = prepared(rows)
    assert with_both == (
        '<|im_start|>system\nTools: [{"type": "function", "function": {"name": "find_boat"}}]<|im_end|>\n'
        "<|im_start|>system\nStyle: terse<|im_end|>\n" + chat("Which?")
    )
    assert plain == chat("Which?")


def test_an_answer_may_be_a_tool_call() -> None:
    """A tool call without text does not count as empty."""
    call = [{"type": "function", "function": {"name": "find_boat", "arguments": {"colour": "red"}}}]
    rows = Dataset.from_list([{"messages": [message(U, "Which?"), message(A, None, tool_calls=call)]}])
    ((_, real),) = prepared(rows)
    assert json.loads(real.removesuffix("<|im_end|>")) == call
    assert prepare(rows, PairTemplate(tiny.tokenizer()))[0]["real"] == ""


@pytest.mark.parametrize("in_parallel", [None, 2])
def test_preparing_in_several_processes_makes_the_same_rows(in_parallel: int | None) -> None:
    """Their order and keys are the same, too."""
    rows = prepare(tiny.sft(20, "messages"), PairTemplate(tiny.tokenizer()), num_proc=in_parallel)
    alone = [prepare(tiny.sft(20, "messages").select([i]), PairTemplate(tiny.tokenizer()))[0] for i in range(20)]
    assert [row["prompt_ids"] for row in rows] == [row["prompt_ids"] for row in alone]
    assert [row["key"].split("-")[0] for row in rows] == [row["key"] for row in alone]


# ---- bad input ----------------------------------------------------------------------------------------------------------


def test_bad_data_is_the_users_to_mend() -> None:
    """The exit code is 2, and `except ValueError` catches it."""
    assert DataError.exit_code == TemplateError.exit_code == 2
    assert issubclass(TemplateError, DataError)
    assert issubclass(DataError, ValueError)


BAD_ROWS: dict[str, tuple[dict[str, Any], tuple[object, ...]]] = {
    "no assistant turn": ({"messages": CONVERSATION[:1]}, ("assistant", "['user']")),
    "unknown roles": (
        {"messages": [message("me", "a"), message("you", "b")]},
        ("message 0", "`messages`", "'me'", "system", "developer", "user", "human"),
    ),
    "no prompt before it": ({"messages": CONVERSATION[1:]}, ("assistant", "['assistant']")),
    "no messages": ({"messages": []}, ("assistant", "[]")),
    "empty answer": ({"messages": [CONVERSATION[0], message(A, "")]}, ("assistant's", "message 1", "empty")),
    "blank answer": (
        {"messages": [CONVERSATION[0], message(A, " \n")]},
        ("assistant's", "message 1", "empty"),
    ),
    "empty completion": ({"prompt": "a", "completion": ""}, ("completion", "empty")),
    "blank completion": ({"prompt": "a", "completion": " \n"}, ("completion", "empty")),
    "no completion": ({"prompt": "a", "completion": None}, ("completion", "empty")),
    "completion without messages": ({"prompt": CONVERSATION[:1], "completion": []}, ("completion", "empty")),
    "empty prompt": ({"prompt": "", "completion": "b"}, ("prompt", "empty")),
    "text before messages": ({"prompt": "a", "completion": CONVERSATION[1:]}, ("prompt", "completion", "both")),
    "messages before text": ({"prompt": CONVERSATION[:1], "completion": "b"}, ("prompt", "completion", "both")),
    "a number": ({"prompt": "a", "completion": 3}, ("`completion`", 3)),
    "messages that are text": (
        {"messages": ["a", "b"]},
        ("message 0", "`messages`", "'a'"),
    ),
    "messages in one text": ({"messages": "User: a"}, ("`messages`", "'User: a'", "JSON")),
    "tools that are no JSON": ({"messages": CONVERSATION, "tools": "{"}, ("`tools`", "JSON", "'{'")),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_cant_be_used_says_why(name: str) -> None:
    """The message uses the terms of the user's file."""
    row, named = BAD_ROWS[name]
    with refused(DataError, "Row 0", *named):
        prepared([row])


@pytest.mark.parametrize("in_parallel", [None, 2])
def test_the_row_that_cant_be_used_is_named(in_parallel: int | None) -> None:
    """Rows are counted from 0, as in `datasets`, whichever process finds it."""
    rows = [{"prompt": "a", "completion": "b"}] * 3 + [{"prompt": "a", "completion": " "}]
    with refused(DataError, "Row 3", "completion", "empty"):
        prepared(rows, num_proc=in_parallel)


def test_a_template_that_cant_be_used_names_the_row() -> None:
    """The error keeps its class."""
    complaint = "No system role!"
    tokenizer = tiny.tokenizer(chat_template=f"{{{{ raise_exception({complaint!r}) }}}}")
    with refused(TemplateError, "Row 0", complaint):
        prepare(tiny.sft(1, "messages"), PairTemplate(tokenizer))


def test_prompts_that_leave_no_room_are_left_out() -> None:
    """As in DPOTrainer, a prompt of `max_length` tokens leaves nothing for a response, and one less leaves one token."""
    template = PairTemplate(tiny.tokenizer())
    rows = tiny.sft(8)
    lengths = [len(row["prompt_ids"]) for row in prepare(rows, template)]
    limit = sorted(lengths)[4]
    kept = prepare(rows, template, max_length=limit)
    assert [len(row["prompt_ids"]) for row in kept] == [length for length in lengths if length < limit]
    assert 0 < len(kept) < len(rows)
    assert len(prepare(rows, template, max_length=max(lengths) + 1)) == len(rows)


def test_how_many_rows_are_left_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """The warning gives both numbers; there is no warning if nothing is lost."""
    template, rows = PairTemplate(tiny.tokenizer()), tiny.sft(8)
    lengths = sorted(len(row["prompt_ids"]) for row in prepare(rows, template, max_length=512))
    assert caplog.text == ""
    kept = prepare(rows, template, max_length=lengths[4], name="eval")
    assert names(caplog.text, f"{8 - len(kept)} of 8", "eval", f"{lengths[4]} tokens", "`max_length`")
    with refused(DataError, "train", "2 tokens", "`max_length`"):
        prepare(rows, template, max_length=2)


# ---- hold-out -----------------------------------------------------------------------------------------------------------


def rows_to_split(n: int = 300) -> Dataset:
    """Return prepared rows in which every third prompt occurs twice, with different answers."""
    rows = tiny.sft(n).to_list()
    rows += [{**row, "completion": " Another."} for row in rows[::3]]
    return prepare(Dataset.from_list(rows), PairTemplate(tiny.tokenizer()))


def test_duplicates_of_a_prompt_are_held_out_together() -> None:
    """No prompt is on both sides, none is lost, and 10 % of the distinct prompts are held out."""
    rows = rows_to_split()
    train, held_out = split_held_out(rows, 0.1, 1000)
    assert len(train) + len(held_out) == len(rows)
    sides = set(train["prompt_hash"]), set(held_out["prompt_hash"])
    assert not sides[0] & sides[1]
    distinct = len(set(rows["prompt"]))
    assert len(sides[1]) == round(distinct / 10)
    assert len(held_out) > len(sides[1]), "no duplicate was held out, so the test shows nothing"


def test_the_hold_out_depends_on_the_prompts_alone() -> None:
    """Changing the order, the answers, or the sample size does not move a prompt to the other side."""
    rows = rows_to_split()
    _, held_out = split_held_out(rows, 0.1, 1000)
    _, shuffled = split_held_out(rows.shuffle(seed=3), 0.1, 1000)
    assert set(shuffled["prompt"]) == set(held_out["prompt"])
    other_answers = [{"prompt": prompt, "completion": " Yes."} for prompt in sorted(set(rows["prompt"]))]
    again = prepare(Dataset.from_list(other_answers), PairTemplate(tiny.tokenizer()))
    assert set(split_held_out(again, 0.1, 1000)[1]["prompt"]) == set(held_out["prompt"])


@pytest.mark.parametrize(
    ("prompts", "fraction", "most", "expected"),
    [(100, 0.02, 1000, 2), (100, 0.0, 1000, 0), (100, 0.5, 7, 7), (10, 0.02, 1000, 1), (2, 0.5, 9, 1), (1, 0.5, 9, 0)],
)
def test_how_many_prompts_are_held_out(prompts: int, fraction: float, most: int, expected: int) -> None:
    """It is the requested share, at most `most`, at least one if there are two, and never all."""
    rows = Dataset.from_list([{"prompt": f"Boat {i}?", "completion": " Yes."} for i in range(prompts)])
    train, held_out = split_held_out(prepare(rows, PairTemplate(tiny.tokenizer())), fraction, most)
    assert (len(train), len(held_out)) == (prompts - expected, expected)


# ---- memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to tell memory from mapped files")
def test_memory_does_not_grow_with_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows go through Arrow files: 3,000 more rows of 1,000 tokens each add less than 12 MB to the peak.

    As Python lists, their tokens alone would take 60 MB.
    """
    template = PairTemplate(tiny.tokenizer())
    # The tokens are made up, since the tokenizer's memory and time are not being tested.
    monkeypatch.setattr(template, "encode_text", lambda *_, **__: EncodedPair(list(range(500)), list(range(500))))

    def peak_of(n: int) -> int:
        path = tmp_path / f"{n}.jsonl"
        with path.open("w", encoding="utf-8") as lines:
            lines.writelines(
                json.dumps({"prompt": f"{i} " * 100, "completion": "yes " * 100}) + "\n" for i in range(n)
            )
        rows = load_rows(str(path))
        gc.collect()
        pa.default_memory_pool().release_unused()
        with peak_memory() as peak:
            made = prepare(rows, template)
        assert len(made) == n
        assert len(made[-1]["real_ids"]) == 500
        return max(peak) - peak[0]

    peak_of(1999)  # imports, caches, buffers
    assert peak_of(5000) - peak_of(2000) < 12 * 2**20


@contextlib.contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Return the peak of memory that is not file-backed, in bytes, sampled every 5 milliseconds."""
    found: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found.append(anonymous_memory())

    found.append(anonymous_memory())
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def anonymous_memory() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


# ---- saving -------------------------------------------------------------------------------------------------------------


def test_all_turns_of_a_conversation_are_held_out_together() -> None:
    """The second turn's prompt contains the first turn's answer, which would leak to the other side."""
    rows = prepare(tiny.sft(12, kind="multi-turn"), PairTemplate(tiny.tokenizer()), turn="all")
    assert len(rows) > 12
    train, held_out = split_held_out(rows, 0.3, 100)

    def conversations(side: Dataset) -> set[str]:
        return {key.partition(".")[0] for key in side["key"]}

    assert held_out.num_rows
    assert not conversations(train) & conversations(held_out)


def test_a_dataset_without_rows_is_refused_by_name() -> None:
    with refused(DataError, "held-out", "no rows"):
        prepare(tiny.sft(2).select([]), PairTemplate(tiny.tokenizer()), name="held-out")
