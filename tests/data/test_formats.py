"""In every format, all content of a row is in its tokens, or the row is refused, or the column is named."""

import json
from typing import Any

from datasets import Dataset, Features, Json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from messages import names
from spin_trl.data.load import as_conversations, rename_columns
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.data.unused import unused_columns
from spin_trl.errors import DataError

TOKENIZER = tiny.tokenizer()
TEMPLATE = PairTemplate(TOKENIZER)

QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

# Every text of a row is unique: a number that no other text has, within any text that a template leaves unchanged.
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
SYSTEMS = st.sampled_from(["", " ", None, "system"])


class Row:
    """A row being built, and the texts that must be found in its tokens or named."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.texts, self.columns = draw, [], {}

    def text(self) -> str:
        """Return a text that occurs nowhere else in the row."""
        words = self.draw(WORDS).replace("<", "").replace("|", "")
        self.texts.append(f"t{len(self.texts)}t {words}e{len(self.texts)}e")
        return self.texts[-1]

    def column(self, name: str, value: Any) -> None:
        self.columns[name] = value


@st.composite
def messages_rows(draw: Any) -> Row:
    """Build `messages` or `conversations`, in OpenAI's or ShareGPT's format, with tool turns, with or without a system
    prompt.
    """
    row, share = Row(draw), draw(st.booleans())
    role, content = ("from", "value") if share else ("role", "content")
    user, assistant = ("human", "gpt") if share else ("user", "assistant")
    turns: list[dict[str, Any]] = []
    if draw(st.booleans()):
        turns.append({role: "system", content: row.text()})
    for _ in range(draw(st.integers(1, 3))):
        turns.append({role: user, content: row.text()})
        if draw(st.booleans()):
            arguments = {"of": row.text()}
            called = {"name": f"f{len(row.texts)}", "arguments": arguments}
            row.texts.append(called["name"])
            if share:
                turns.append({role: "function_call", content: json.dumps(called)})
            else:
                turns.append(
                    {role: assistant, content: None, "tool_calls": [{"type": "function", "function": called}]}
                )
            turns.append({role: "observation" if share else "tool", content: row.text()})
        turns.append({role: assistant, content: row.text()})
    row.column(draw(st.sampled_from(["messages", "conversations"])), turns)
    if turns[0][role] != "system" and draw(SYSTEMS):
        row.column("system", row.text())
    _add_more(draw, row)
    return row


@st.composite
def prompt_rows(draw: Any) -> Row:
    """Build `prompt` and `completion`, as text or messages, with the columns that may accompany them."""
    row = Row(draw)
    if draw(st.booleans()):
        row.column("prompt", row.text())
        row.column("completion", row.text())
    else:
        row.column("prompt", [{"role": "user", "content": row.text()}])
        row.column("completion", [{"role": "assistant", "content": row.text()}])
    if draw(SYSTEMS):
        row.column("system", row.text())
    if draw(st.booleans()):
        row.column("history", [[row.text(), row.text()]])
    _add_more(draw, row, "input", "prompt_input")
    return row


@st.composite
def alpaca_rows(draw: Any) -> Row:
    """Build `instruction`, `input`, `output`, `history` and `system`."""
    row = Row(draw)
    for name in ("instruction", "output"):
        row.column(name, row.text())
    if draw(st.booleans()):
        row.column("input", draw(st.sampled_from([row.text, str]))())
    if draw(st.booleans()):
        row.column("history", [[row.text(), row.text()] for _ in range(draw(st.integers(0, 2)))])
    if draw(SYSTEMS):
        row.column("system", row.text())
    _add_more(draw, row)
    return row


def _add_more(draw: Any, row: Row, *names: str) -> None:
    for name in (*names, "context", "source"):
        if draw(st.integers(0, 3)) == 0:
            row.column(name, row.text())


def texts_of(value: Any) -> list[str]:
    """Return every text in a column."""
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value or []
    return [text for one in values for text in texts_of(one)]


def check(row: Row, dataset: Dataset) -> None:
    """Check that each text is in the tokens or in a named column, and that the displayed prompt and answer are in
    their tokens.
    """
    (found,) = prepare(dataset, TEMPLATE)
    whole = TOKENIZER.decode([*found["prompt_ids"], *found["real_ids"]])
    named = [text for column in unused_columns(dataset) for text in texts_of(dataset[0][column])]
    for text in row.texts:
        as_json = json.dumps(text, ensure_ascii=False)[1:-1]  # as the template writes a call's arguments
        assert text in whole or as_json in whole or text in named, (text, whole)
    assert found["real"] in TOKENIZER.decode(found["real_ids"])
    assert found["prompt"] in TOKENIZER.decode(found["prompt_ids"])


@QUICK
@given(messages_rows())
def test_what_messages_say_is_in_the_tokens(row: Row) -> None:
    check(row, Dataset.from_list([row.columns]))


@QUICK
@given(prompt_rows(), st.booleans())
def test_what_prompts_and_completions_say_is_in_the_tokens(row: Row, conversational: bool) -> None:
    rows = Dataset.from_list([row.columns])
    check(row, as_conversations(rows) if conversational else rows)


@QUICK
@given(alpaca_rows(), st.sampled_from(["", "mapped", "conversational"]))
def test_what_alpacas_rows_say_is_in_the_tokens(row: Row, how: str) -> None:
    rows = Dataset.from_list([row.columns])
    if how:
        rows = rename_columns(rows, {"instruction": "prompt", "output": "completion"})
    check(row, as_conversations(rows) if how == "conversational" else rows)


# Other content of real files: every kind of value where a text or a list belongs.
FIELDS = st.sampled_from(
    ["role", "content", "from", "value", "type", "text", "tool_calls", "weight", "name", "arguments"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text('ab {}[]"', max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=6,
)
ROLES = st.sampled_from(["user", "assistant", "system", "gpt", "human", "function_call", "tool", "critic"])
TURN = st.fixed_dictionaries({"role": ROLES, "content": VALUES}, optional={"tool_calls": VALUES, "train": VALUES})


@QUICK
@given(
    st.fixed_dictionaries(
        {"messages": VALUES | st.lists(TURN, max_size=4)},
        optional={"system": VALUES, "tools": VALUES, "chat_template_kwargs": VALUES},
    )
    | st.fixed_dictionaries({"prompt": VALUES, "completion": VALUES}, optional={"system": VALUES, "history": VALUES})
    | st.fixed_dictionaries({"instruction": VALUES, "output": VALUES}, optional={"input": VALUES, "history": VALUES})
)
def test_a_row_of_any_kind_is_prepared_or_refused(row: dict[str, Any]) -> None:
    """There is never a traceback. Values go through Arrow as JSON, like those of a file whose rows differ."""
    rows = Dataset.from_list([{name: json.dumps(value) for name, value in row.items()}])
    rows = rows.cast(Features(dict.fromkeys(row, Json())))
    refusal: DataError | None = None
    try:
        prepare(as_conversations(rows), TEMPLATE)
    except DataError as error:
        refusal = error
    assert refusal is None or names(str(refusal), "Row 0")
