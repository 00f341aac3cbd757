"""`spin-trl init`: a run accepts the recipe it writes, whatever the data, and no file of the user's is overwritten."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

import tiny
from messages import names
from spin_trl.cli import main
from spin_trl.cli.session import session_of
from spin_trl.config.recipe import read_settings
from spin_trl.errors import PlanError
from spin_trl.plan.devices import Device
from spin_trl.play.first_steps import init as init_module
from spin_trl.play.first_steps.look import Machine
from spin_trl.run.journal import DATA, Step

ROWS = list(tiny.sft(24).to_list())
CHATS = [row["messages"] for row in tiny.sft(24, "messages").to_list()]


def of_rows(**columns: Any) -> list[dict[str, Any]]:
    """Return rows whose columns are built from a prompt and its response."""
    return [{name: make(row["prompt"], row["completion"].strip()) for name, make in columns.items()} for row in ROWS]


def share_gpt(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": prompt}, {"from": "gpt", "value": response}]


def chat(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


FORMS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "text": (ROWS, {"as_conversations": True}),
    "prompt-and-completion-messages": (tiny.sft(24, "conversational").to_list(), {}),
    "messages": ([{"messages": one} for one in CHATS], {}),
    "share-gpt": (of_rows(conversations=share_gpt), {}),
    "alpaca": (of_rows(instruction=lambda p, r: p, input=lambda p, r: "", output=lambda p, r: r), {}),
    "question-and-answer": (
        of_rows(id=lambda p, r: p[:2], question=lambda p, r: p, answer=lambda p, r: r),
        {"column_mapping": {"question": "prompt", "answer": "completion"}, "as_conversations": True},
    ),
    "conversation-by-another-name": (of_rows(verlauf=chat), {"column_mapping": {"verlauf": "messages"}}),
    "conversation-as-json": (
        of_rows(dialog=lambda p, r: json.dumps(chat(p, r))),
        {"column_mapping": {"dialog": "messages"}},
    ),
    "names-that-say-nothing": (
        of_rows(nr=lambda p, r: "7", frage=lambda p, r: p, antwort=lambda p, r: r, thema=lambda p, r: "boats"),
        {"column_mapping": {"frage": "prompt", "antwort": "completion"}, "as_conversations": True},
    ),
    "two-columns-of-text": (
        of_rows(x=lambda p, r: p, y=lambda p, r: r.split()[0]),
        {"column_mapping": {"x": "prompt", "y": "completion"}, "as_conversations": True},
    ),
    "chosen-and-rejected-text": (
        of_rows(prompt=lambda p, r: p, chosen=lambda p, r: r, rejected=lambda p, r: "no idea"),
        {"column_mapping": {"chosen": "completion"}, "as_conversations": True},
    ),
    "chosen-and-rejected-conversations": (
        of_rows(chosen=chat, rejected=lambda p, r: chat(p, "no idea")),
        {"column_mapping": {"chosen": "messages"}},
    ),
    "prompt-beside-chosen-conversations": (
        of_rows(prompt=lambda p, r: p, chosen=chat, rejected=lambda p, r: chat(p, "no idea")),
        {"column_mapping": {"chosen": "messages"}},
    ),
    "real-and-generated": (tiny.sft(24, "real-generated").to_list(), {"column_mapping": {"real": "messages"}}),
    "system-and-history": (
        of_rows(
            instruction=lambda p, r: p,
            output=lambda p, r: r,
            system=lambda p, r: "Be brief.",
            history=lambda p, r: [["Hi", "Yes?"]],
        ),
        {},
    ),
}
"""Rows of every form in docs/data.md, and what their recipe must say about the columns."""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Run each test in its own folder, and without planning, which takes a second or two, unless planning is tested."""
    monkeypatch.chdir(tmp_path)
    if request.node.get_closest_marker("usefixtures") is None:

        def unplanned(*_: Any, **__: Any) -> None:
            raise PlanError("not here")

        monkeypatch.setattr(init_module, "make_plan", unplanned)


@pytest.fixture
def planned() -> None:
    """Enable planning, for tests that plan as a user would."""


def write_jsonl(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def of_columns(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("column_mapping", "as_conversations") if name in settings}


def written(path: str = "recipe.yaml") -> dict[str, Any]:
    return dict(yaml.safe_load(Path(path).read_text(encoding="utf-8")))


def check_a_run_takes(path: str) -> None:
    """Check that a run accepts all of the recipe's settings and prepares its rows."""
    session = session_of(path, ["--disable_tqdm", "true"])
    session._check_playable()
    session._claim_directory()
    session._set_up()
    prepared = session.state.done(Step.PREPARE, DATA)
    assert prepared is not None
    assert prepared["train_rows"] > prepared["held_out_rows"] > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_run_takes_the_recipe(form: str, llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, expected = FORMS[form]
    data = write_jsonl("train.jsonl", rows)
    assert main(["init", "--model", str(llama_folder), "--data", data]) == 0
    assert names(
        capsys.readouterr().out, data, "24 rows", "recipe.yaml", "spin-trl preview", "spin-trl plan", "--smoke"
    )
    assert of_columns(written()) == expected
    check_a_run_takes("recipe.yaml")


def as_json(rows: list[dict[str, Any]]) -> str:
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return "rows.json"


def as_csv(rows: list[dict[str, Any]], name: str = "rows.csv", separator: str = ",") -> str:
    with Path(name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return name


def as_parquet(rows: list[dict[str, Any]]) -> str:
    Dataset.from_list(rows).to_parquet("rows.parquet")
    return "rows.parquet"


def as_saved(rows: list[dict[str, Any]]) -> str:
    Dataset.from_list(rows).save_to_disk("saved")
    return "saved"


def as_folder(rows: list[dict[str, Any]]) -> str:
    Path("folder").mkdir()
    write_jsonl("folder/train.jsonl", rows)
    return "folder"


@pytest.mark.parametrize(
    "write",
    [as_json, as_csv, lambda rows: as_csv(rows, "rows.tsv", "\t"), as_parquet, as_saved, as_folder],
    ids=["json", "csv", "tsv", "parquet", "save_to_disk", "folder"],
)
def test_every_kind_of_file_is_looked_into(write: Any, llama_folder: Path) -> None:
    rows, expected = FORMS["question-and-answer"]
    assert main(["init", "--model", str(llama_folder), "--data", write(rows)]) == 0
    assert of_columns(written()) == expected
    check_a_run_takes("recipe.yaml")


@pytest.mark.slow
@pytest.mark.usefixtures("planned")
def test_the_recipe_is_played(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl("train.jsonl", FORMS["question-and-answer"][0])
    assert main(["init", "--model", str(llama_folder), "--data", "train.jsonl"]) == 0
    assert main(["preview", "recipe.yaml"]) == 0
    assert main(["plan", "recipe.yaml"]) == 0
    assert main(["run", "recipe.yaml", "--smoke"]) == 0
    assert Path("runs/recipe-smoke/best.json").exists()


def test_a_smoke_run_leaves_the_runs_own_folder_alone(llama_folder: Path) -> None:
    """So the suggested commands can be run one after another."""
    write_jsonl("train.jsonl", ROWS)
    main(["init", "--model", str(llama_folder), "--data", "train.jsonl"])
    folders = [session_of("recipe.yaml", options).directory.path for options in ([], ["--smoke", "true"])]
    assert folders == [Path("runs/recipe"), Path("runs/recipe-smoke")]


def test_lengths_follow_from_the_rows(llama_folder: Path) -> None:
    """24 rows of about 20 tokens need 64; one row of 400 among 200 is truncated; the model's positions are the limit."""
    write_jsonl("train.jsonl", ROWS)
    main(["init", "--model", str(llama_folder), "--data", "train.jsonl"])
    assert written()["max_length"] == 64
    many = [{"prompt": f"{number}?", "completion": "a boat"} for number in range(199)]
    write_jsonl("tail.jsonl", [*many, {"prompt": "long?", "completion": "red boat " * 100}])
    main(["init", "--model", str(llama_folder), "--data", "tail.jsonl", "--output", "tail.yaml"])
    assert written("tail.yaml")["max_length"] == 64
    assert "0.5%" in Path("tail.yaml").read_text(encoding="utf-8")
    write_jsonl("long.jsonl", [{"prompt": f"{number}?", "completion": "red boat " * 300} for number in range(20)])
    main(["init", "--model", str(llama_folder), "--data", "long.jsonl", "--output", "long.yaml"])
    assert written("long.yaml")["max_length"] == 512


def test_a_model_without_a_chat_template_gets_text(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "plain", processing_class=tiny.tokenizer(chat_template=False))
    write_jsonl("train.jsonl", FORMS["alpaca"][0])
    assert main(["init", "--model", str(folder), "--data", "train.jsonl"]) == 0
    assert of_columns(written()) == {"column_mapping": {"instruction": "prompt", "output": "completion"}}
    check_a_run_takes("recipe.yaml")


def test_text_that_was_templated_stays_text(llama_folder: Path) -> None:
    rows = of_rows(
        prompt=lambda p, r: f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n", completion=lambda p, r: r
    )
    write_jsonl("train.jsonl", rows)
    assert main(["init", "--model", str(llama_folder), "--data", "train.jsonl"]) == 0
    assert of_columns(written()) == {}
    check_a_run_takes("recipe.yaml")


def test_a_few_bad_rows_are_left_out_and_many_are_refused(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"prompt": "What?", "completion": ""}
    write_jsonl("train.jsonl", [*ROWS[:5], bad, *ROWS[5:]])
    with Path("train.jsonl").open("a", encoding="utf-8") as file:
        file.write("{no JSON\n")
    assert main(["init", "--model", str(llama_folder), "--data", "train.jsonl"]) == 0
    assert written()["bad_rows"] == "skip"
    assert names(capsys.readouterr().out, "row 5", "`bad_rows: skip`", "2 of 26")
    check_a_run_takes("recipe.yaml")
    write_jsonl("worse.jsonl", [*ROWS[:5], *[bad] * 5])
    assert main(["init", "--model", str(llama_folder), "--data", "worse.jsonl", "--output", "worse.yaml"]) == 2
    assert names(capsys.readouterr().err, "5 of 10 rows", "row 5", "empty")
    assert not Path("worse.yaml").exists()


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"data": {"q": "a", "a": "b"}}, ["data", "columns", "`prompt`", "`completion`"]),
        ({"text": "a long text without an answer"}, ["`text`", "`prompt`", "`completion`"]),
        ({"one": "a b c", "two": "d e f", "three": "g h i"}, ["['one', 'two', 'three']", "column mapping"]),
    ],
    ids=["nested", "text", "three-texts"],
)
def test_data_that_nothing_says_how_to_read_is_refused(
    row: dict[str, Any], parts: list[str], llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl("train.jsonl", [row, row])
    assert main(["init", "--model", str(llama_folder), "--data", "train.jsonl"]) == 2
    assert names(capsys.readouterr().err, *parts)
    assert not Path("recipe.yaml").exists()


def test_no_file_is_overwritten(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text("mine", encoding="utf-8")
    assert main(["init"]) == 2
    assert names(capsys.readouterr().err, "recipe.yaml", "`--force`", "`--output`")
    assert Path("recipe.yaml").read_text(encoding="utf-8") == "mine"
    assert main(["init", "--force"]) == 0
    assert written()["model_name_or_path"] == "MODEL"
    Path("there.yaml").symlink_to("nowhere")
    assert main(["init", "--output", "there.yaml"]) == 2
    assert main(["init", "--output", "."]) == 2
    assert main(["init", "--output", "no/such/folder.yaml"]) == 2
    assert names(capsys.readouterr().err, "no/such")


def test_a_runs_own_settings_are_never_overwritten(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl("train.jsonl", ROWS)
    main(["init", "--model", str(llama_folder), "--data", "train.jsonl"])
    check_a_run_takes("recipe.yaml")
    assert main(["init", "--output", "runs/recipe/recipe.yaml", "--force"]) == 2
    assert names(capsys.readouterr().err, "runs/recipe", "run directory")


@pytest.mark.parametrize("given", [[], ["model"], ["data"]], ids=["nothing", "model", "data"])
def test_what_is_not_named_stands_as_a_placeholder(
    given: list[str], llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl("train.jsonl", ROWS)
    values = {"model": str(llama_folder), "data": "train.jsonl"}
    assert main(["init", *(part for name in given for part in (f"--{name}", values[name]))]) == 0
    settings = written()
    assert settings["model_name_or_path"] == (values["model"] if "model" in given else "MODEL")
    assert settings["dataset_name"] == (values["data"] if "data" in given else "DATA.jsonl")
    read_settings("recipe.yaml", ["--model_name_or_path", str(llama_folder)])
    assert main(["preview", "recipe.yaml"]) == 2
    assert names(capsys.readouterr().err, "DATA.jsonl" if given == ["model"] else "MODEL")


def test_columns_and_paths_with_odd_names_are_written_as_yaml(llama_folder: Path) -> None:
    """Names may have quotes, colons, line breaks and control characters, also in comments, which end with their line."""
    rows = [{"a: 'b' #c": row["prompt"], "d\n\x1be": row["completion"], "note\n- x": 1} for row in ROWS]
    data = write_jsonl("odd: #1 'rows'.jsonl", rows)
    assert main(["init", "--model", str(llama_folder), "--data", data]) == 0
    assert written()["dataset_name"] == data
    assert written()["column_mapping"] == {"a: 'b' #c": "prompt", "d\n\x1be": "completion"}
    check_a_run_takes("recipe.yaml")


def test_answers_like_gsm8ks_suggest_its_scorer(llama_folder: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(24)]
    write_jsonl("train.jsonl", rows)
    main(["init", "--model", str(llama_folder), "--data", "train.jsonl"])
    lines = Path("recipe.yaml").read_text(encoding="utf-8").splitlines()
    suggested = yaml.safe_load(
        "\n".join(line[2:] for line in lines if line.startswith(("# scorer: ", "# metric_for_best")))
    )
    assert suggested == {"scorer": "gsm8k", "metric_for_best_iteration": "score/exact_match"}
    Path("recipe.yaml").write_text("\n".join([*lines, yaml.safe_dump(suggested)]), encoding="utf-8")
    check_a_run_takes("recipe.yaml")


FULL = {"dtype": "float32", "bf16": True, "learning_rate": 5e-7, "use_peft": None}
ADAPTER = {"dtype": "bfloat16", "bf16": True, "use_peft": True, "learning_rate": 1e-5, "load_in_4bit": None}
OF_A_T4 = {"dtype": "float16", "bf16": False, "fp16": True, "use_peft": True}


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (Device("large", 22.0, 121, 300), FULL),
        (Device("middle", 5.0, 121, 300), ADAPTER),
        (Device("old", 5.0, 65, 320, has_bf16=False), OF_A_T4),
        (Device("small", 0.9, 65, 320), {"load_in_4bit": True, "use_peft": True}),
    ],
    ids=["large", "adapter", "no-bfloat16", "four-bits"],
)
@pytest.mark.slow
@pytest.mark.usefixtures("planned")
def test_the_machine_decides_what_is_trained(
    device: Device, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model has half a billion parameters, but only its configuration and tokenizer exist."""
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path / "large")
    config = tiny.model("llama").config
    sizes = {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 2, "head_dim": 128}
    for name, value in {**sizes, "num_attention_heads": 32, "num_key_value_heads": 8}.items():
        setattr(config, name, value)
    config.save_pretrained(tmp_path / "large")
    write_jsonl("train.jsonl", ROWS)
    monkeypatch.setattr("spin_trl.play.first_steps.look.this_machine", lambda: Machine(device))
    assert main(["init", "--model", "large", "--data", "train.jsonl"]) == 0
    settings = written()
    assert {name: settings.get(name) for name in expected} == expected
    assert "use_cpu" not in settings
    read_settings("recipe.yaml", ["--use_cpu", "true"])


def test_an_adapter_is_trained_further(tmp_path: Path, llama_folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    write_jsonl("train.jsonl", ROWS)
    assert main(["init", "--model", "adapter", "--data", "train.jsonl"]) == 0
    settings = written()
    assert "use_peft" not in settings
    assert settings["learning_rate"] == 1e-5
    check_a_run_takes("recipe.yaml")
