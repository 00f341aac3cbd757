"""Cases in which part of a row did not reach the model, or reached it in another form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_from_disk
from transformers import PreTrainedTokenizerFast

import tiny
from cases.playing import Command, Row, chats, conversation, prepared, sides, texts, with_bos, write_recipe, write_rows
from messages import names
from runs import entry
from trl_templates import TEMPLATES

USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"
QWEN = next(path for path in TEMPLATES if path.stem == "qwen2_5").read_text(encoding="utf-8")

RUN = "runs/my"


def asked(text: str, system: str | None = None) -> str:
    """Return a prompt of one user's message in ChatML, after a system prompt."""
    before = f"<|im_start|>system\n{system}{END}\n" if system else ""
    return f"{before}{USER}{text}{END}\n{ASSISTANT}"


def share_gpt(number: int) -> list[Row]:
    return [{"from": "human", "value": f"{number} boats?"}, {"from": "gpt", "value": "The red boat."}]


# ---- columns ---------------------------------------------------------------------------------------------------------


def test_a_system_column_beside_sharegpt_is_a_system_turn(prepare: Command, llama_folder: Path) -> None:
    """Bug class: a dataset's `system` column is dropped silently, and the model is trained without its instructions."""
    rows = [{"system": f"Answer as clerk {number}.", "conversations": share_gpt(number)} for number in range(4)]
    prepare(write_recipe("my.yaml", llama_folder, rows))
    expected = [
        (asked(f"{number} boats?", f"Answer as clerk {number}."), f"The red boat.{END}") for number in range(4)
    ]
    assert prepared(RUN) == expected


def test_a_system_column_beside_text_is_named(prepare: Command, llama_folder: Path) -> None:
    """The same class: text has no system turn, unless it is converted to a conversation."""
    rows = [{"system": "Be brief.", **row} for row in texts()]
    said = prepare(write_recipe("my.yaml", llama_folder, rows))
    assert names(said.text, "`system`")
    chatting = write_recipe("chat.yaml", llama_folder, rows, as_conversations=True)
    assert not names(prepare(chatting).text, "`system`")
    assert prepared("runs/chat")[0][0] == asked(texts()[0]["prompt"], "Be brief.")


@pytest.mark.parametrize("mapping", [{}, {"instruction": "prompt", "output": "completion"}])
def test_alpacas_input_stands_in_the_prompt(mapping: dict[str, str], prepare: Command, llama_folder: Path) -> None:
    """Bug class: Alpaca's `input` is ignored, so all rows of an instruction have the same prompt."""
    rows = [{"instruction": "Sort these.", "input": f"boat {number}", "output": "Yes."} for number in range(4)]
    settings = {"column_mapping": mapping, "as_conversations": True} if mapping else {}
    prepare(write_recipe("my.yaml", llama_folder, rows, **settings))
    assert prepared(RUN) == [(asked(f"Sort these.\n\nboat {number}"), f"Yes.{END}") for number in range(4)]


def test_without_its_input_alpaca_has_one_prompt_and_nothing_is_held_out(prepare: Command, llama_folder: Path) -> None:
    """The same class: under another name, the column is reported, and so is the consequence."""
    rows = [{"question": "Sort these.", "these": f"boat {number}", "answer": "Yes."} for number in range(4)]
    mapping = {"question": "prompt", "answer": "completion"}
    said = prepare(write_recipe("my.yaml", llama_folder, rows, column_mapping=mapping))
    assert names(said.text, "`these`", "`held_out_name`", "1 distinct prompt")


# ---- messages --------------------------------------------------------------------------------------------------------


def test_content_parts_are_read_as_text(prepare: Command, llama_folder: Path) -> None:
    """Bug class: OpenAI's content parts reach a template that wants text, and Python's repr of a list is trained on."""
    parts = [
        conversation(*([{"type": "text", "text": message["content"]}] for message in row["messages"]))
        for row in chats()
    ]
    prepare(write_recipe("my.yaml", llama_folder, parts))
    assert prepared(RUN) == [(asked(f"{n} boats. Which one?"), f"The red boat, {n}.{END}") for n in range(6)]


def test_sharegpts_tool_turns_reach_the_prompt(prepare: Command, tmp_path: Path) -> None:
    """Bug class: turns with roles that the template does not know, such as `observation`, are skipped silently."""
    tokenizer = tiny.tokenizer(chat_template=QWEN)
    model = tiny.save(tmp_path / "model", processing_class=tokenizer)
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"{number} boats: what do they cost"},
                {"from": "function_call", "value": json.dumps({"name": "price", "arguments": {"id": number}})},
                {"from": "observation", "value": json.dumps({"price": 7 * number})},
                {"from": "gpt", "value": f"It costs {7 * number}."},
            ]
        }
        for number in range(1, 4)
    ]
    prepare(write_recipe("my.yaml", model, rows, max_length=400))
    found = prepared(RUN, tokenizer)
    assert len(found) == 3
    for number, (prompt, real) in enumerate(found, start=1):
        call = prompt.partition("<tool_call>\n")[2].partition("\n</tool_call>")[0]
        result = prompt.partition("<tool_response>\n")[2].partition("\n</tool_response>")[0]
        assert json.loads(call) == {"name": "price", "arguments": {"id": number}}
        assert json.loads(result) == {"price": 7 * number}
        assert real == f"It costs {7 * number}.{END}"


@pytest.mark.parametrize("role", ["critic", "GPT-4", "function_output"])
def test_a_turn_of_an_unknown_role_refuses_its_row(role: str, command: Command, llama_folder: Path) -> None:
    """The same class: no template has a place for it."""
    rows = chats(3)
    rows[1]["messages"].insert(1, {"role": role, "content": "Hm."})
    said = command("run", write_recipe("my.yaml", llama_folder, rows))
    assert said.code == 2
    assert names(said.text, "Row 1", "message 1", "`messages`", "role", repr(role))


# ---- held out --------------------------------------------------------------------------------------------------------


def test_prompts_that_are_held_out_by_name_are_not_trained_on(
    command: Command, prepare: Command, llama_folder: Path
) -> None:
    """Bug class: evaluation and training data overlap, and memorised answers are measured as a gain."""
    rows = chats(8)
    same = write_recipe("same.yaml", llama_folder, write_rows("train.jsonl", rows), held_out_name="train.jsonl")
    said = command("run", same)
    assert said.code == 2
    assert names(said.text, "8 rows", "`held_out_name`", "`held_out_overlap: drop_held_out`")
    # Prompts that differ in case and white space are the same, too.
    held_out = [conversation("2 BOATS.  which one?\n", "The blue boat."), *rows[5:], *chats(9)[8:]]
    write_rows("held-out.jsonl", held_out)
    partly = write_recipe("my.yaml", llama_folder, rows, held_out_name="held-out.jsonl")
    said = prepare(partly)
    assert names(said.text, "4 rows", "`held_out_overlap: drop_train`")
    assert [prompt[0] for prompt in sides(RUN)[0]] == list("0134")
    assert [prompt[0] for prompt in sides(RUN)[1]] == list("25678")


def test_where_the_overlap_goes_is_a_setting(command: Command, prepare: Command, llama_folder: Path) -> None:
    """The same class: a user decides which side keeps the prompt."""
    write_rows("held-out.jsonl", chats(9)[6:])
    settings = {"held_out_name": "held-out.jsonl"}
    dropped = write_recipe("my.yaml", llama_folder, chats(8), **settings, held_out_overlap="drop_held_out")
    prepare(dropped)
    assert [len(side) for side in sides(RUN)] == [8, 1]
    refused = write_recipe("no.yaml", llama_folder, chats(8), **settings, held_out_overlap="refuse")
    said = command("start", refused)
    assert said.code == 2
    assert names(said.text, "2 held-out prompts", "`held_out_overlap: drop_train`", "`drop_held_out`")


# ---- tokens ----------------------------------------------------------------------------------------------------------


def test_real_answers_that_max_length_cuts_are_counted(prepare: Command, llama_folder: Path) -> None:
    """Bug class: long answers are truncated silently, lose their EOS, and the model learns never to stop."""
    rows = chats(6)
    for number in (1, 4):
        rows[number]["messages"][1]["content"] = "The red boat. " * 40
    said = prepare(write_recipe("my.yaml", llama_folder, rows))
    assert names(said.text, "2 real responses", "train", "row 1", "`max_length` (64)")
    assert entry("prepare", "data", RUN)["notes"]["cut by max_length"] == {"responses": 2, "first_row": 1}


def test_text_that_begins_with_bos_has_one(prepare: Command, tmp_path: Path) -> None:
    """Bug class: prompts that a template has already rendered are tokenised with a second BOS."""
    tokenizer = with_bos(tiny.tokenizer())
    model = tiny.save(tmp_path / "model", processing_class=tokenizer)
    rows = [{**row, "prompt": tiny.END_OF_TEXT * (number % 2) + row["prompt"]} for number, row in enumerate(texts())]
    prepare(write_recipe("my.yaml", model, rows))
    expected = sorted((tiny.END_OF_TEXT + row["prompt"], f"{row['completion']}{END}") for row in texts())
    assert prepared(RUN, tokenizer) == expected


def test_a_character_without_a_token_does_not_end_an_answer(prepare: Command) -> None:
    """Bug class: the unknown token is the EOS, so a rare letter ends a response (here `bécd` became `b` and EOS)."""
    small = {"start_tokenizer": "char", "start_hidden_size": 8, "start_num_layers": 1, "start_num_heads": 1}
    rows = [{"prompt": f"{number}: ", "completion": "abcd"} for number in range(4)]
    write_rows("held-out.jsonl", [{"prompt": "0:0 ", "completion": "bécd"}])
    said = prepare(write_recipe("my.yaml", None, rows, held_out_name="held-out.jsonl", **small))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(Path(RUN, "start/tokenizer")))
    (ids,) = load_from_disk(f"{RUN}/data/held-out")["real_ids"]
    assert len(ids) == len("bécd") + 1
    assert ids.index(tokenizer.eos_token_id) == len("bécd")
    assert tokenizer.decode([ids[0], *ids[2:4]]) == "bcd"
    assert names(said.text, "1 real response", "held-out", "row 0", "tokenizer")


# ---- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "answers"),
    [
        (["1+1=,2", "2+2=,4"], ["2", "4"]),
        (["1-1=,0", "2+2=,4"], ["0", "4"]),
        (["Code of Kenya?,KE", "Code of Namibia?,NA", "Which tag?,None"], ["KE", "NA", "None"]),
        (["agent?,007", "price?,1.50", "day?,2024-01-02", "right?,TRUE"], ["007", "1.50", "2024-01-02", "TRUE"]),
    ],
)
def test_answers_in_csv_are_text(lines: list[str], answers: list[str], prepare: Command, llama_folder: Path) -> None:
    """Bug class: pandas reads numbers, dates and NA from CSV, so 007 becomes 7 and Namibia's code a missing value."""
    Path("rows.csv").write_text("\n".join(["prompt,completion", *lines]) + "\n", encoding="utf-8")
    prepare(write_recipe("my.yaml", llama_folder, "rows.csv", as_conversations=True))
    assert sorted(real.removesuffix(END) for _, real in prepared(RUN)) == sorted(answers)


def test_rows_of_csv_with_another_number_of_fields_are_refused_by_line(command: Command, llama_folder: Path) -> None:
    """The same class: an extra comma shifts a row, and the wrong column is trained on."""
    Path("rows.csv").write_text("prompt,completion\nOne?,Yes.\nWell, two?,Yes.\n", encoding="utf-8")
    said = command("run", write_recipe("my.yaml", llama_folder, "rows.csv"))
    assert said.code == 2
    assert names(said.text, "rows.csv", "line 3")


def test_a_csv_file_of_unpaired_preferences_is_not_taken_for_answers(command: Command, llama_folder: Path) -> None:
    """The same class: read as text, a `label` would no longer say which completions are undesirable."""
    Path("rows.csv").write_text("prompt,completion,label\nOne?,Yes.,true\nTwo?,No.,false\n", encoding="utf-8")
    said = command("run", write_recipe("my.yaml", llama_folder, "rows.csv"))
    assert said.code == 2
    assert names(said.text, "label")
