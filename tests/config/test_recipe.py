"""A recipe is YAML in TRL's flat style, overridden on the command line; errors suggest what would be valid."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM

import tiny
from messages import names, refused
from spin_trl.config import recipe, shipped
from spin_trl.config.recipe import Recipe
from spin_trl.config.recipe_file import find_file
from spin_trl.config.shipped import read_accelerate_config
from spin_trl.errors import DataError, RecipeError

CPU = "use_cpu: true\nbf16: false\nnum_iterations: 2\n"
Read = Callable[..., Recipe]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a recipe from its text, with command-line arguments."""

    def from_text(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "mine.yaml"
        path.write_text(CPU + text, encoding="utf-8")
        return recipe.read_settings(str(path), overrides)

    return from_text


# ---- values -------------------------------------------------------------------------------------------------------------


def test_keys_go_to_the_settings_that_have_them(read: Read) -> None:
    """One flat file sets data, iteration, loop, start and model."""
    found = read(
        "dataset_name: boats.jsonl\nloss_type: space\nmax_length: 128\nhistory: 1\nstart_num_layers: 3\n"
        "model_name_or_path: org/model\nuse_peft: true\nlora_r: 4\n"
    )
    assert found.name == "mine"
    assert found.data.dataset_name == "boats.jsonl"
    assert (found.args.loss_type, found.args.max_length) == (["space"], 128)
    assert (found.play.num_iterations, found.play.history) == (2, 1)
    assert found.start.start_num_layers == 3
    assert (found.model.model_name_or_path, found.model.use_peft, found.model.lora_r) == ("org/model", True, 4)


@pytest.mark.parametrize(
    ("text", "overrides", "rate"),
    [
        ("learning_rate: 5e-7", (), 5e-7),  # YAML 1.1 reads this as text
        ("learning_rate: 5.0e-7", (), 5e-7),
        ("learning_rate: '5e-7'", (), 5e-7),
        ("learning_rate: 5e-7", ("--learning_rate", "3e-7"), 3e-7),
        ("learning_rate: 5e-7", ("--learning_rate=3e-7",), 3e-7),
        ("", ("--learning_rate", "3e-7"), 3e-7),
        ("", (), 1e-6),  # DPOConfig's
    ],
)
def test_a_number_is_a_number_however_it_is_written(
    read: Read, text: str, overrides: tuple[str, ...], rate: float
) -> None:
    """The command line takes precedence."""
    found = read(text, *overrides)
    assert found.args.learning_rate == rate
    assert isinstance(found.args.learning_rate, float)
    assert found.play.per_iteration == {}


RATES = {"learning_rate": [5e-7, 1e-7]}


@pytest.mark.parametrize(
    ("text", "overrides", "lists"),
    [
        ("learning_rate: [5e-7, 1e-7]", (), RATES),
        ("learning_rate:\n- 5e-7\n- 1e-7", (), RATES),
        ("", ("--learning_rate", "[5e-7,1e-7]"), RATES),
        ("", ("--learning_rate=[5e-7, 1e-7]",), RATES),
        ("learning_rate: 3e-7", ("--learning_rate", "[5e-7,1e-7]"), RATES),
        ("learning_rate: [1, 2]", ("--learning_rate", "[5e-7,1e-7]"), RATES),
        ("learning_rate: [5e-7, 1e-7]", ("--learning_rate", "3e-7"), {}),
        ("learning_rate: [5e-7, 1e-7]", ("--learning_rate=3e-7",), {}),
        ("learning_rate: [5e-7, 1e-7]\nbeta: [0.1, 5]", ("--beta", "[0.2, 0.3]"), {**RATES, "beta": [0.2, 0.3]}),
        ("num_train_epochs: [1, 2]\ntemperature: [1, 0.7]", (), {"num_train_epochs": [1, 2], "temperature": [1, 0.7]}),
        ("per_iteration: {learning_rate: [5e-7, 1e-7]}", (), RATES),
        ("per_iteration: '{\"learning_rate\": [5e-7, 1e-7]}'", (), RATES),
        ("per_iteration: {beta: [1, 2]}\nlearning_rate: [5e-7, 1e-7]", (), {**RATES, "beta": [1, 2]}),
    ],
)
def test_lists_are_one_value_an_iteration(
    read: Read, text: str, overrides: tuple[str, ...], lists: dict[str, list[float]]
) -> None:
    """This holds in YAML and on the command line, where a single number replaces a whole list."""
    found = read(text, *overrides)
    assert found.play.per_iteration == lists
    assert all(isinstance(value, float) for values in found.play.per_iteration.values() for value in values)
    if overrides and not lists:
        assert found.args.learning_rate == 3e-7


def test_lists_of_trls_own_settings_are_left_to_trl(read: Read) -> None:
    """These are several losses with a weight each; a single value may stand for a list of one."""
    found = read("loss_type: [sigmoid, space]\nloss_weights: [1, 5e-1]\nbaseline_label_smoothing: 0.1")
    assert found.args.loss_type == ["sigmoid", "space"]
    assert found.args.loss_weights == [1.0, 0.5]
    assert found.play.baseline_label_smoothing == [0.1]
    assert read("", "--baseline_label_smoothing", "0.0", "0.2").play.baseline_label_smoothing == [0.0, 0.2]


def test_mappings_come_as_yaml_or_as_json(read: Read) -> None:
    """This holds in a file and on the command line."""
    text = "column_mapping: {question: prompt}\nchat_template_kwargs: {enable_thinking: false}"
    arguments = ("--column_mapping", '{"question": "prompt"}', "--chat_template_kwargs", '{"enable_thinking": false}')
    for found in (read(text), read("", *arguments)):
        assert found.data.column_mapping == {"question": "prompt"}
        assert found.args.chat_template_kwargs == {"enable_thinking": False}


def test_null_is_none(read: Read) -> None:
    """It is accepted for settings that may be absent."""
    assert read("max_length: null").args.max_length is None


def test_environment_variables_are_set_as_trl_does(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those under `env` are set before anything that reads them is imported."""
    monkeypatch.setenv("SPIN_TRL_TEST", "")
    assert read("env: {SPIN_TRL_TEST: 3}").name == "mine"  # not the variable
    assert os.environ["SPIN_TRL_TEST"] == "3"


# ---- mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        ("learnin_rate: 1", (), ("mine.yaml", "'learnin_rate'", "'learning_rate'")),
        ("num_iteration: 1", (), ("'num_iteration'", "'num_iterations'")),
        ("start_hiden_size: 1", (), ("'start_hiden_size'", "'start_hidden_size'")),
        ("modelname_or_path: x", (), ("'modelname_or_path'", "'model_name_or_path'")),
        ("zzzz: 1", (), ("unknown", "'zzzz'.")),
        ("", ("--learnin_rate", "1"), ("'--learnin_rate'", "'--learning_rate'")),
        ("", ("--learnin_rate=1",), ("'--learnin_rate'", "'--learning_rate'")),
        ("", ("--num_iter", "1"), ("'--num_iter'", "'--num_iterations'")),
        ("", ("stray",), ("['stray']", "`--`")),
        ("", ("--learning_rate",), ("--learning_rate", "argument")),
    ],
)
def test_unknown_settings_name_the_nearest_known_one(
    read: Read, text: str, overrides: tuple[str, ...], parts: tuple[object, ...]
) -> None:
    """A typo is an error, and abbreviated names are not completed."""
    with refused(RecipeError, *parts):
        read(text, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ("--learnin_rate", "1"),
        ("--datasets", "x"),
        ("stray",),
        ("--num_iterations", "3", "stray"),
        ("--max_length", "long"),
        ("--optim", "adamw8bit"),
        ("--deepspeed", "nowhere.json"),
    ],
)
def test_a_mistake_on_the_command_line_is_not_blamed_on_the_recipe(read: Read, overrides: tuple[str, ...]) -> None:
    """The user would look in the wrong place."""
    with refused(RecipeError) as error:
        read("num_iterations: 2", *overrides)
    assert not names(str(error.value), "mine.yaml")


def test_models_can_be_loaded_after_a_deepspeed_configuration_was_refused(read: Read, tmp_path: Path) -> None:
    """transformers asks the newest DeepSpeed configuration of the process whenever it loads a model."""
    model = tiny.save(tmp_path / "model")
    with refused(RecipeError) as error:
        read("num_iterations: 2", "--deepspeed", "nowhere.json")
    assert names(str(error.value), "deepspeed")
    assert AutoModelForCausalLM.from_pretrained(model).config.model_type == "llama"


def test_all_options_that_are_unknown_are_named_with_what_to_write_instead(read: Read) -> None:
    """The suggestion is an option with dashes, also if another tool's name stands for a setting here."""
    with refused(
        RecipeError, "'--learning-rte'", "'--learning_rate'", "'--datasets'", "'--dataset_name'", "'--zzzz'."
    ):
        read("", "--learning-rte", "1", "--datasets=x", "--zzzz")
    with refused(RecipeError, ["stray"], "`--`"):
        read("", "--num_iterations", "2", "stray")


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        ("max_length: long", (), ("`max_length`", "'long'", "integer")),
        ("max_length: 2.5", (), ("`max_length`", 2.5, "integer")),
        ("max_length: [1, 2]", (), ("`max_length`", [1, 2], "integer")),
        ("top_p: high", (), ("`top_p`", "'high'", "number")),
        ("beta: {a: 1}", (), ("`beta`", {"a": 1}, "number")),
        ("beta: true", (), ("`beta`", True, "number")),
        ("loss_weights: [1, much]", (), ("`loss_weights`", [1, "much"], "number")),
        ("smoke: 3", (), ("`smoke`", 3, "true", "false")),
        ("remove_unused_columns: [no]", (), ("`remove_unused_columns`", [False], "true", "false")),
        ("temperature: -1", (), ("`temperature`", -1.0, "at least 0.01")),
        ("train_on_turn: middle", (), ("`train_on_turn`", "'middle'", "'last'")),
        ("column_mapping: [a]", (), ("`column_mapping`", ["a"], "mapping")),
        ("learning_rate: [1, 2, 3]", (), ("`learning_rate`", 3, 2, "iterations")),
        ("learning_rate: [1, much]", (), ("`learning_rate`", [1, "much"], "numbers")),
        ("per_iteration: {seed: [1, 2]}", (), ("`seed`", "iteration")),
        ("per_iteration: [1]", (), ("`per_iteration`", [1], "mapping")),
        ("", ("--max_length", "long"), ("--max_length", "int", "'long'")),
        ("", ("--train_on_turn", "middle"), ("`train_on_turn`", "'middle'", "'last'")),
        ("", ("--learning_rate", "[1,2,3]"), ("`learning_rate`", 3, 2, "iterations")),
        ("", ("--learning_rate", "[1,"), ("`--learning_rate`", "'[1,'", "list", "'[5e-7,1e-7]'")),
        ("", ("--num_iterations", "3", "--beta", "[1,2]"), ("`beta`", 2, 3, "iterations")),
    ],
)
def test_values_that_do_not_fit_are_named(
    read: Read, text: str, overrides: tuple[str, ...], parts: tuple[object, ...]
) -> None:
    """The message says what was expected, wherever the value was written."""
    with refused(RecipeError, *parts):
        read(text, *overrides)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("a: [", ("YAML", "while parsing")),
        ("- a\n- b\n", ("`key: value`", "list")),
        ("python: {model: x}\n", ("Python",)),
        ("a: ä\n", ("YAML", "'utf-8'", "0xe4")),
    ],
    ids=["broken", "list", "Python", "Latin-1"],
)
def test_files_that_are_no_recipes_are_named(content: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    """The message has their path."""
    (tmp_path / "mine.yaml").write_text(content, encoding="latin-1")
    with refused(RecipeError, tmp_path / "mine.yaml", *parts):
        recipe.read_settings(str(tmp_path / "mine.yaml"))


# ---- shipped recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("name", sorted(shipped.recipes()))
def test_every_shipped_recipe_can_be_read(name: str) -> None:
    """Each is read by its name, without a GPU if it claims to need none."""
    cpu = ["--use_cpu", "--bf16", "false", "--fp16", "false"]
    found = recipe.read_settings(
        name, [] if yaml.safe_load(find_file(name).read_text(encoding="utf-8")).get("use_cpu") else cpu
    )
    assert found.name == name.replace("/", "-")
    assert found.data.dataset_name is None or isinstance(found.data.dataset_name, str)


# ---- data ---------------------------------------------------------------------------------------------------------------


def test_a_recipes_data_is_loaded_and_cut(read: Read, tmp_path: Path) -> None:
    """It is loaded by name, with its mapping, and limited to the first rows only if set."""
    rows = tiny.sft(5, "question-answer")
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    text = f"dataset_name: {tmp_path}/rows.jsonl\ncolumn_mapping: {{question: prompt, answer: completion}}\n"
    loaded = read(text).data.train()
    assert isinstance(loaded, Dataset)
    assert loaded["prompt"][:] == rows["question"][:]
    assert read(text, "--max_rows", "2").data.train()["completion"][:] == rows["answer"][:2]
    assert len(read(text, "--max_rows", "99").data.train()) == 5
    assert read(text).data.held_out() is None
    held_out = read(text, "--held_out_name", f"{tmp_path}/rows.jsonl").data.held_out()
    assert held_out is not None
    assert held_out.to_list() == loaded.to_list()
    named = text + f"held_out_name: {tmp_path}/rows.jsonl\n"
    assert read(named, "--held_out_name", "").data.held_out() is None


def test_a_recipe_without_data_says_so(read: Read) -> None:
    """Data may instead be named on the command line."""
    with refused(RecipeError, "`dataset_name`"):
        read("").data.train()
    with refused(DataError, "none.jsonl"):
        read("", "--dataset_name", "none.jsonl").data.train()


# ---- written settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "learning_rate: [5e-7, 1e-7]\nbeta: 0.5\nloss_type: hinge",
        "column_mapping: {question: prompt}\nchat_template_kwargs: {style: terse}\nmax_length: null",
        "use_peft: true\nlora_target_modules: [q_proj, v_proj]\nmodel_name_or_path: org/model\ndtype: bfloat16",
        "loss_type: [sigmoid, space]\nloss_weights: [1.0, 0.5]\nlr_scheduler_type: cosine\noptim: rmsprop",
        "metric_for_best_iteration: score\nscorer: json:dumps\nbaseline: sft\nbaseline_label_smoothing: [0.0, 0.1]",
    ],
    ids=["defaults", "lists", "mappings", "LoRA", "losses", "loop"],
)
def test_settings_that_are_written_down_read_as_the_same_recipe(read: Read, text: str, tmp_path: Path) -> None:
    """A run's frozen settings are a recipe that holds exactly what differs from the defaults."""
    first = read(text)
    written = first.settings()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    again = recipe.read_settings(str(tmp_path / "recipe.yaml"))
    assert again.settings() == written
    for part in ("data", "args", "play", "start", "model"):
        assert _comparable(getattr(again, part)) == _comparable(getattr(first, part)), part
    named = {line.partition(":")[0] for line in (CPU + text).splitlines()} - {"learning_rate"}
    derived = {"per_iteration", "greater_is_better_iteration", "max_new_tokens", "evaluate_greedy"}
    assert set(written) <= named | derived
    if "learning_rate" in text:
        assert written["per_iteration"] == RATES


def _comparable(config: Any) -> dict[str, Any]:
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__ if hasattr(config, name)}
    return {name: value for name, value in fields.items() if name not in ("distributed_state", "accelerator_config")}


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands it in a recipe or in a call from Python; names may have brackets, spaces and line breaks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "my [1] \n#recipe.yaml"
    path.write_text(
        'use_cpu: true\nbf16: false\nmodel_name_or_path: "~/m [b]\\nx"\naccelerate_config: "~/two [2].yaml"',
        encoding="utf-8",
    )
    found = recipe.read_settings("~/my [1] \n#recipe.yaml")
    assert found.model.model_name_or_path == str(tmp_path / "m [b]\nx")
    assert found.settings()["model_name_or_path"] == str(tmp_path / "m [b]\nx")
    assert recipe.read_settings(str(path), ["--model_name_or_path", "~/other"]).model.model_name_or_path == str(
        tmp_path / "other"
    )
    (tmp_path / "two [2].yaml").write_text("num_processes: 2", encoding="utf-8")
    assert read_accelerate_config(str(found.play.accelerate_config)) == {"num_processes": 2}
    assert (
        recipe.read_settings(str(path), ["--model_name_or_path", "org/~name"]).model.model_name_or_path == "org/~name"
    )


def test_a_number_may_be_left_to_the_run_in_a_file_and_on_the_command_line(read: Read) -> None:
    """`generation_batch_size` is a number, or `auto`."""
    assert read("generation_batch_size: auto").args.generation_batch_size == "auto"
    assert read("", "--generation_batch_size", "auto").args.generation_batch_size == "auto"
    assert read("generation_batch_size: auto", "--generation_batch_size", "32").args.generation_batch_size == 32
    assert read("").args.generation_batch_size == 64
    for options in ([], ["--generation_batch_size", "many"]):
        with refused(RecipeError, "`generation_batch_size`", "'many'", "'auto'"):
            read("" if options else "generation_batch_size: many", *options)
