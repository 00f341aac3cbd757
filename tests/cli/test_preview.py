"""`spin-trl preview` shows rows as a run tokenises them, what is truncated or left out, and a run's own errors."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

import tiny
from messages import names
from spin_trl.cli import main
from spin_trl.cli.session import session_of
from spin_trl.play.first_steps import preview as preview_module

Preview = Callable[..., str]

ROWS = tiny.sft(24).to_list()


@pytest.fixture
def preview(tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Preview:
    """Return a function that previews rows or a file and returns the output, or the error output if the command fails."""
    monkeypatch.chdir(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    monkeypatch.setattr(AutoModelForCausalLM, "from_config", refuse)

    def show(rows: Any, *options: str, code: int = 0, **settings: Any) -> str:
        if not isinstance(rows, str):
            Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        known = {
            "model_name_or_path": str(llama_folder),
            "dataset_name": rows if isinstance(rows, str) else "train.jsonl",
        }
        known |= {"max_length": 96, "bf16": False, "use_cpu": True, "report_to": "none"} | settings
        written = {name: value for name, value in known.items() if value is not None}
        Path("recipe.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
        assert main(["preview", "recipe.yaml", *options]) == code
        printed = capsys.readouterr()
        return str(printed.out if code == 0 else printed.out + printed.err)

    return show


def plain(text: str) -> str:
    """Remove the marks from a text."""
    return re.sub("[⟦⟧✂]", "", text)


def test_three_rows_are_shown_with_what_the_template_adds(preview: Preview) -> None:
    shown = preview([{"messages": one["messages"]} for one in tiny.sft(5, "messages").to_list()])
    first = tiny.sft(1, "messages")[0]["messages"]
    assert f"⟦<|im_start|>user\n⟧{first[0]['content']}⟦<|im_end|>\n<|im_start|>assistant\n⟧" in shown
    assert f"{first[1]['content']}⟦<|im_end|>⟧" in shown
    assert names(shown, "Row 0", "Row 2", "5 rows", "messages", "<|im_end|>", "`max_length` 96")
    assert "Row 3" not in shown


def test_what_is_shown_is_what_a_run_trains_on(preview: Preview, tmp_path: Path) -> None:
    """The tokens are the same, compared by their texts, and so are the numbers of rows."""
    rows = [{**row, "source": "a book"} for row in ROWS]
    rows[3]["completion"] = "red boat " * 60
    shown = preview(rows, "--rows", "24", "--full", as_conversations=True)
    session = session_of("recipe.yaml", ["--disable_tqdm", "true"])
    session._claim_directory()
    session._set_up()
    run = session.state
    tokenizer = run.tokenizer()
    for held_out in (False, True):
        for row in run.rows(held_out=held_out):
            assert tokenizer.decode(row["prompt_ids"]) + "\n--- real response\n" in plain(shown)
            assert tokenizer.decode(row["real_ids"]) + "\n" in plain(shown)
            size = f"{len(row['prompt_ids'])} + {len(row['real_ids'])} = "
            assert size in shown
    held_out_rows = len(run.rows(held_out=True))
    assert names(shown, f"{held_out_rows} row", 24 - held_out_rows, "`source`")


def test_what_max_length_cuts_is_marked_and_counted(preview: Preview) -> None:
    rows = [dict(row) for row in ROWS]
    rows[1]["completion"] = "red boat " * 60
    shown = preview(rows, max_length=40, as_conversations=True)
    cut = re.search("✂(.*)✂", shown[shown.index("Row 1") :], re.DOTALL)
    assert cut is not None
    assert cut[1].endswith("⟦<|im_end|>⟧")
    assert names(shown, "1 of 24", "4.2%", "`max_length`", "row 1")
    sizes = re.search(r"Row 1: (\d+) \+ (\d+) = (\d+) tokens, (\d+) truncated", shown)
    assert sizes is not None
    assert int(sizes[3]) - int(sizes[4]) == 40
    assert len(tiny.tokenizer()(plain(cut[1]), add_special_tokens=False)["input_ids"]) == int(sizes[4])


def test_keep_end_cuts_the_beginning(preview: Preview) -> None:
    shown = preview(ROWS, max_length=10, truncation_mode="keep_end", as_conversations=True)
    assert "--- prompt\n✂⟦<|im_start|>user" in shown


def test_text_is_continued_as_it_is(preview: Preview) -> None:
    shown = preview(ROWS)
    assert f"--- prompt\n{ROWS[0]['prompt']}\n--- real response\n{ROWS[0]['completion']}⟦<|im_end|>⟧" in shown
    assert names(shown, "`as_conversations: true`")


def test_rows_that_a_run_would_refuse_are_refused_with_their_numbers(preview: Preview) -> None:
    """All other rows are shown and counted first."""
    rows = [dict(row) for row in ROWS]
    rows[0]["completion"] = " "
    rows[5]["completion"] = "An end <|im_end|> inside"
    rows[2]["prompt"] = "red boat " * 90
    shown = preview(rows, code=2)
    assert names(shown, "Row 0", "Row 1", "Row 2", "`max_length`", "Row 1: ", "21 of 24 rows")
    assert names(shown, "2 of 24 rows", "row 0", "row 5", "<|im_end|>", "`bad_rows: skip`")
    skipped = preview(rows, bad_rows="skip")
    assert names(skipped, "2 of 24 rows", "row 5", "21 of 24 rows", 1)


@pytest.mark.parametrize(
    ("rows", "settings", "parts"),
    [
        ("nowhere.jsonl", {}, ["nowhere.jsonl"]),
        ([{"text": "a"}], {}, ["['text']", "`prompt`"]),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], {}, ["`chosen`", "SPINTrainer"]),
        (ROWS, {"max_lenght": 3}, ["'max_lenght'", "'max_length'"]),
        (ROWS, {"model_name_or_path": "no/such-model"}, ["'no/such-model'"]),
        (ROWS, {"max_length": 2}, ["`max_length`", "2 tokens"]),
        (ROWS, {"max_length": 1024}, ["512", "1024"]),
    ],
    ids=["no-file", "text", "pairs", "unknown-setting", "no-model", "too-short", "too-long-for-the-model"],
)
def test_bad_input_gets_the_runs_own_error(
    rows: Any, settings: dict[str, Any], parts: list[str], preview: Preview
) -> None:
    assert names(preview(rows, code=2, **settings), *parts)


@pytest.mark.parametrize("at", [-1, 24])
def test_a_row_that_is_not_there_is_refused(at: int, preview: Preview) -> None:
    assert names(preview(ROWS, f"--at={at}", code=2), "`--at`", at, 23)


def test_other_rows_are_shown(preview: Preview) -> None:
    shown = preview(ROWS, "--rows", "2", "--at", "22")
    assert names(shown, "Row 22", "Row 23")
    assert "Row 0" not in shown


def test_of_many_rows_some_are_counted_unless_all_are_asked_for(
    preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows keep their original numbers."""
    monkeypatch.setattr(preview_module, "COUNTED", 100)
    monkeypatch.setattr(preview_module, "COUNTED_OF_MORE", 10)
    rows = [{"prompt": f"{number}?", "completion": "a boat" if number % 100 != 99 else ""} for number in range(500)]
    shown = preview(rows, "--at", "99", "--rows", "3", code=2)
    assert names(shown, "12 of 500 rows", "`--all`", "Row 99", "Row 101", "completion")
    assert names(preview(rows, "--all", code=2), "all 500 rows", "5 of 500 rows", "row 499")


def test_held_out_data_of_its_own_is_counted(preview: Preview) -> None:
    tiny.write_jsonl("other.jsonl", tiny.sft(30).select(range(20, 30)))
    shown = preview(ROWS, held_out_name="other.jsonl")
    assert names(shown, "10 rows", 20, "4 rows", "`held_out_overlap: drop_train`")


def test_a_run_from_scratch_shows_the_tokenizer_that_it_would_train(preview: Preview) -> None:
    shown = preview(ROWS, model_name_or_path=None, start_tokenizer="char", start_hidden_size=8, start_num_heads=1)
    assert names(shown, "Row 0", "<|endoftext|>", f"{len(ROWS[0]['prompt'])} + {len(ROWS[0]['completion']) + 1}")


def test_nothing_is_written(preview: Preview) -> None:
    preview(ROWS)
    assert sorted(path.name for path in Path().iterdir()) == ["recipe.yaml", "train.jsonl"]


def test_text_of_others_steers_no_terminal(preview: Preview) -> None:
    shown = preview([{"prompt": "a \x1b[31mred\u202e boat?", "completion": "yes\x07"}, *ROWS])
    assert "\x1b" not in shown
    assert names(shown, "␛[31mred⟨U+202E⟩", "yes␇")


def test_long_texts_are_shortened_unless_all_is_asked_for(preview: Preview) -> None:
    rows = [{"prompt": "a boat? " * 400, "completion": "red " * 600}, *ROWS]
    short, whole = (preview(rows, *options, max_length=4000, model_name_or_path=None) for options in ([], ["--full"]))
    assert names(short, "`--full`")
    assert "a boat? " * 400 in whole
    assert len(short) < len(whole)


def test_all_turns_of_a_conversation_are_shown(preview: Preview) -> None:
    rows = tiny.sft(5, "multi-turn").to_list()
    shown = preview(rows, "--rows", "1", train_on_turn="all")
    assert shown.count("--- real response") == 2
    answers = [one["content"] for one in rows[0]["messages"] if one["role"] == "assistant"]
    assert all(f"--- real response\n{answer}⟦<|im_end|>⟧" in shown for answer in answers)


def test_on_a_terminal_colours_say_what_marks_say_elsewhere() -> None:
    from rich.console import Console

    from spin_trl.play.first_steps.pieces import Piece
    from spin_trl.play.first_steps.preview_text import ASCII_MARKS, MARKS, _written

    pieces = [
        Piece("<s>", is_prompt=True, is_added=True, is_special=True),
        Piece("mine", is_prompt=True),
        Piece(" gone", is_prompt=False, is_cut=True),
        Piece("</s>", is_prompt=False, is_added=True, is_special=True, is_cut=True),
    ]
    assert _written(pieces, marks=MARKS).plain == "⟦<s>⟧mine✂ gone⟦</s>⟧✂"
    assert _written(pieces, marks=ASCII_MARKS).plain == "[[<s>]]mine~~ gone[[</s>]]~~"
    console = Console(force_terminal=True, color_system="standard", width=80)
    with console.capture() as captured:
        console.print(_written(pieces, marks=None), end="")
    assert re.sub("\x1b\\[[0-9;]*m", "", captured.get()) == "<s>mine gone</s>"
    assert len(set(re.findall("\x1b\\[[0-9;]*m", captured.get()))) >= 3
