"""Tokens, keys and passwords are found anywhere in the settings, and never repeated in a message. Other names pass."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from messages import names, refused
from spin_trl import SPINConfig
from spin_trl.cli import main
from spin_trl.config import shipped
from spin_trl.config.credentials import (
    find_credentials,
    hidden,
    hide,
    hide_named,
    is_name,
    refuse_credentials,
    refuse_in_arguments,
)
from spin_trl.errors import RecipeError
from spin_trl.run.recipe import read_recipe

HF = "hf_" + "aB3" * 11
"""As long as a real Hub token, except for one letter."""

SHORT = "abc123xyz"
"""Not recognisable by its form."""


def places(settings: Any) -> list[str]:
    return [found.place for found in find_credentials(settings)]


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"hub_token": SHORT}, "hub_token"),
        ({"token": SHORT}, "token"),
        ({"hub-token": SHORT}, "hub-token"),
        ({"model_init_kwargs": {"token": HF}}, "model_init_kwargs.token"),
        ({"model_init_kwargs": {"hubToken": SHORT}}, "model_init_kwargs.hubToken"),
        ({"model_init_kwargs": {"use_auth_token": SHORT}}, "model_init_kwargs.use_auth_token"),
        ({"model_init_kwargs": {"a": [{"b": {"api_key": SHORT}}]}}, "model_init_kwargs.a[0].b.api_key"),
        ({"model_init_kwargs": {"Authorization": f"Bearer {SHORT}"}}, "model_init_kwargs.Authorization"),
        ({"model_init_kwargs": {"revision": HF}}, "model_init_kwargs.revision"),
        ({"model_init_kwargs": f'{{"token": "{SHORT}"}}'}, "model_init_kwargs.token"),
        ({"model_init_kwargs": f'{{"headers": [{{"token": "{SHORT}"}}]}}'}, "model_init_kwargs.headers[0].token"),
        ({"model_init_kwargs": f'{{"token": "{SHORT}"'}, "model_init_kwargs.token"),
        ({"run_name": f"mine-{HF}"}, "run_name"),
        ({"lora_target_modules": ["q_proj", HF]}, "lora_target_modules[1]"),
        ({"env": {"HF_TOKEN": SHORT}}, "HF_TOKEN"),
        ({"env": {"WANDB_API_KEY": SHORT}}, "WANDB_API_KEY"),
        ({"env": {"NEPTUNE_API_TOKEN": SHORT}}, "NEPTUNE_API_TOKEN"),
        ({"env": {"MLFLOW_TRACKING_PASSWORD": SHORT}}, "MLFLOW_TRACKING_PASSWORD"),
        ({"env": {"AWS_SECRET_ACCESS_KEY": SHORT}}, "AWS_SECRET_ACCESS_KEY"),
        ({"env": {"HUGGING_FACE_TOKEN": SHORT}}, "HUGGING_FACE_TOKEN"),
        ({"env": {"CLEARML_CLIENT_SECRET": SHORT}}, "CLEARML_CLIENT_SECRET"),
        ({"env": {"PGPASSWORD": SHORT}}, "PGPASSWORD"),
        ({"env": {"MYSQL_PWD": SHORT}}, "MYSQL_PWD"),
        ({"env": {"HTTPS_PROXY": f"http://me:{SHORT}@proxy:3128"}}, "HTTPS_PROXY"),
        ({"env": {"ANYTHING": HF}}, "ANYTHING"),
        ({"dataset_name": f"https://me:{SHORT}@example.org/rows.jsonl"}, "dataset_name"),
        ({"dataset_name": f"https://example.org/rows.jsonl?X-Amz-Signature={SHORT}"}, "dataset_name"),
        ({"dataset_name": f"https://example.org/rows.jsonl#access_token={SHORT}"}, "dataset_name"),
        ({"column_mapping": {"question": HF}}, "column_mapping.question"),
        ({"a": "gh" + "p_" + "aB3" * 12}, "a"),
        ({"a": "sk-" + "ant-api03-" + "aB-" * 12}, "a"),
        ({"a": "AK" + "IA" + "ABCD" * 4}, "a"),
        ({HF: 1}, "a key"),
    ],
)
def test_a_credential_is_found(settings: dict[str, Any], place: str) -> None:
    """It is recognised by its name or its form, in mappings, lists, JSON, truncated JSON and URLs."""
    assert places(settings) == [place]
    with pytest.raises(RecipeError) as caught:
        refuse_credentials(settings)
    message = str(caught.value)
    assert message.startswith(f"`{place}` ")
    assert names(message, "environment")
    assert HF not in message
    assert SHORT not in message


@pytest.mark.parametrize(
    "settings",
    [
        {"hub_token": None, "push_to_hub": True, "hub_model_id": "me/hf_model"},
        {"model_init_kwargs": {"token": True, "use_auth_token": False, "revision": "v1"}},
        {"model_init_kwargs": '{"token": true, "use_auth_token": "false"}'},
        {"model_name_or_path": "hf-internal-testing/tiny-random-LlamaForCausalLM", "dataset_name": "hf_something"},
        {"pad_token": "<pad>", "eos_token": "</s>", "max_new_tokens": 64, "start_tokenizer": "bpe", "tokenizer": "t"},
        {"model_name_or_path": "models/hf_llama_3_8b_instruct_checkpoint_of_the_third_epoch"},
        {"env": {"HF_HUB_DISABLE_IMPLICIT_TOKEN": 1, "HF_TOKEN_PATH": "/home/me/token", "WANDB_PROJECT": "token"}},
        {"column_mapping": {"token": "prompt", "password": "completion"}},
        {"column_mapping": '{"secret": "prompt"}'},
        {"env": {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": "/t"}},
        {"scorer": r"regex:\d+[/-]\d+", "stop": "[unclosed", "per_iteration": "{not: [yaml"},
        {"dataset_name": "https://example.org:8080/a@b/rows.jsonl?split=train", "revision": "a" * 40},
        {"sampling": ["token", "api_key", "password"]},
    ],
)
def test_what_only_sounds_like_one_passes(settings: dict[str, Any]) -> None:
    """Names are compared as a whole, `true` is not a token, and a short name that begins with hf_ is just a name."""
    assert places(settings) == []
    refuse_credentials(settings)


@pytest.mark.parametrize("name", sorted(shipped.recipes()))
def test_recipes_that_ship_pass(name: str) -> None:
    """None of them contains a credential."""
    assert places(yaml.safe_load(shipped.recipes()[name].read_text(encoding="utf-8"))) == []


def test_settings_that_contain_themselves_are_searched_once() -> None:
    """YAML aliases can express such settings."""
    assert places(yaml.safe_load("a: &a\n  b: *a\n  token: x7\n")) == ["a.token"]
    shared = yaml.safe_load("a: &a {token: x7}\nb: *a\n")
    assert places(shared) == ["a.token", "b.token"]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--hub_token", SHORT], "hub_token"),
        (["--hub-token", SHORT], "hub-token"),
        ([f"--hub_token={SHORT}"], "hub_token"),
        (["--bf16", "false", "--token", SHORT], "token"),
        (["--model_init_kwargs", f'{{"token": "{SHORT}"}}'], "model_init_kwargs.token"),
        ([f'--model_init_kwargs={{"a": [{{"token": "{SHORT}"}}]}}'], "model_init_kwargs.a[0].token"),
        (["--model_init_kwargs", f"{{token: {SHORT}"], "model_init_kwargs.token"),
        (["--lora_target_modules", "q_proj", HF], "lora_target_modules[1]"),
    ],
)
def test_a_credential_on_a_command_line_is_found(arguments: list[str], place: str) -> None:
    """Every way of writing an option is covered."""
    with pytest.raises(RecipeError) as caught:
        refuse_in_arguments(arguments)
    assert names(str(caught.value), f"`{place}`", "environment")
    assert SHORT not in str(caught.value)
    assert HF not in str(caught.value)


def test_other_arguments_pass() -> None:
    """These are switches, names and columns."""
    refuse_in_arguments(["--push_to_hub", "true", "--hub_token", "--column_mapping", '{"token": "prompt"}', "stray"])
    with refused(RecipeError, "token", "environment"):
        refuse_in_arguments(["stray", HF])


@pytest.mark.parametrize("written", [{"model_init_kwargs": {"token": SHORT}}, {"env": {"WANDB_API_KEY": SHORT}}])
def test_a_recipe_that_holds_one_is_refused_and_says_what_to_do(
    written: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused when run, planned or read; nothing is written, and no environment variable is set."""
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    assert main(["run", str(path)]) == 2
    message = capsys.readouterr().err
    (place,) = places(written)
    assert names(message, path, f"`{place}`", "Remove")
    assert SHORT not in message
    assert [entry.name for entry in tmp_path.iterdir()] == ["my.yaml"]


def test_no_part_of_a_token_is_quoted_from_a_file_that_is_no_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """YAML's own message shows the end of a long line, where a token can't be recognised."""
    path = tmp_path / "my.yaml"
    path.write_text(f"env:\n  A: [\n{'x' * 60}{HF}", encoding="utf-8")
    assert main(["run", str(path)]) == 2
    message = capsys.readouterr().err
    assert names(message, path, "YAML", "line 3", "column 97")
    assert HF[-8:] not in message
    assert main(["run", "quickstart", "--column_mapping", f"[{'x' * 60}{HF}"]) == 2
    assert HF[-8:] not in capsys.readouterr().err


def test_a_token_in_a_comment_is_refused_too(tmp_path: Path) -> None:
    """The comments go wherever the file's settings go."""
    path = tmp_path / "my.yaml"
    path.write_text(f"beta: 0.1\n# token: {HF}\n", encoding="utf-8")
    with refused(RecipeError, path, "line 2", "token") as caught:
        read_recipe(str(path))
    assert HF not in str(caught.value)


def test_what_is_no_yaml_is_not_quoted_with_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML's own message shows the line."""
    path = tmp_path / "my.yaml"
    for token in (HF, SHORT):
        path.write_text(f"model_init_kwargs: {{token: {token}\nbeta: 0.1\n", encoding="utf-8")
        assert main(["run", str(path)]) == 2
        message = capsys.readouterr().err
        assert names(message, path, "YAML", "line 2")
        assert token not in message
        with pytest.raises(RecipeError) as caught:
            read_recipe(str(path))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("command", ["report", "card", "recipes", "run"])
def test_no_command_repeats_an_argument_that_is_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """This includes commands that take no settings."""
    arguments = [] if command == "recipes" else ["nothing-there"]
    assert main([command, *arguments, "--token", SHORT]) == 2
    assert main([command, *arguments, f"--anything={HF}"]) == 2
    shown = capsys.readouterr()
    assert SHORT not in shown.out + shown.err
    assert HF not in shown.out + shown.err
    assert names(shown.err, "`token`", "environment")


def test_trackers_and_logs_are_told_no_token() -> None:
    """All of a trainer's arguments go to trackers; the trainer itself keeps them unchanged."""
    kwargs = {"token": SHORT, "revision": "v1", "code_revision": HF}
    args = SPINConfig("out", use_cpu=True, bf16=False, hub_token=SHORT, model_init_kwargs=kwargs)
    told = args.to_dict()
    assert told["model_init_kwargs"] == {"token": "***", "revision": "v1", "code_revision": "***"}
    for text in (str(told), args.to_json_string(), str(args.to_sanitized_dict()), str(args), repr(args)):
        assert SHORT not in text
        assert HF not in text
    assert args.model_init_kwargs == kwargs
    assert args.hub_token == SHORT


def test_texts_are_shown_without() -> None:
    """The rest of the text is unchanged."""
    assert (
        hide(f"bad {HF}, see https://me:{SHORT}@host/x?token={SHORT}&y=1")
        == "bad ***, see https://***@host/x?token=***&y=1"
    )
    assert hide("the token is unknown: hf_transfer") == "the token is unknown: hf_transfer"
    assert hide_named(f'{{"api_key": "{SHORT}", pad_token: x}}') == '{"api_key": ***, pad_token: x}'
    assert hidden([{"token": SHORT, "a": (HF, 1)}, "b"]) == [{"token": "***", "a": ("***", 1)}, "b"]


def test_names_are_compared_whole() -> None:
    """`token` is a credential, `pad_token` and `tokenizer` are not; a service's variable is one."""
    assert all(map(is_name, ("token", "HF_TOKEN", "Api-Key", "COMET_API_KEY", "push_to_hub_token", "password")))
    assert not any(
        map(is_name, ("pad_token", "tokenizer", "max_new_tokens", "hub_model_id", "key", "HF_TOKEN_PATH", "secretary"))
    )
