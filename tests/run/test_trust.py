"""Reading a run runs no code, and code named by a run from elsewhere needs the user's consent."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from messages import refused
from spin_trl.config.recipe import read_settings
from spin_trl.errors import RecipeError, RunDirectoryError
from spin_trl.play.open import reopen
from spin_trl.run.marker import MARKER
from spin_trl.run.ownership import Ownership
from spin_trl.run.recipe import read_recipe
from spin_trl.run.trust import TrustedRuns, check_trust, check_trust_of_recipe, named_code, without_code

CODE: dict[str, Any] = {
    "dataset_name": "evil:load", "held_out_name": "spin_trl.files:os.system", "scorer": ["gsm8k", "evil:score"],
    "test_name": "evil:load", "retain_name": "evil:load", "dpo_name": "evil:load", "retain_scorer": ["evil:score"],
    "trust_remote_code": True, "attn_implementation": "evil/kernel", "accelerate_config": "evil.yaml",
    "model_init_kwargs": {"use_safetensors": False, "weights_only": False},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Ownership:
    """Return a run directory whose settings name code."""
    return owned(tmp_path / "run", {"dataset_name": "evil:load", "scorer": ["evil:score"]})


def owned(path: Path, settings: dict[str, Any]) -> Ownership:
    made = Ownership(path)
    made.claim()
    made.own("recipe.yaml").write_text(yaml.safe_dump({"use_cpu": True, **settings}), encoding="utf-8")
    return made


@pytest.mark.parametrize("name", CODE)
def test_every_setting_that_names_code_is_known(name: str) -> None:
    assert list(named_code({name: CODE[name]})) == [name]


def test_code_that_the_model_writes_is_code_if_it_would_run() -> None:
    allowed = {"allow_generated_code": True, "scorer": ["json", "python_tests"]}
    assert list(named_code(allowed)) == ["allow_generated_code"]
    assert list(named_code(allowed | {"allow_unisolated_code": True})) == [
        "allow_generated_code",
        "allow_unisolated_code",
    ]
    assert named_code(allowed | {"scorer": "json"}) == named_code({"scorer": "python_tests"}) == {}


def test_planning_a_run_does_not_ask_its_command_of_vllm(tmp_path: Path) -> None:
    """`engine: auto` asks the command for its version, and that of a run from elsewhere may be anything."""
    run = owned(tmp_path / "run", {"engine": "auto", "vllm_command": ["/tmp/evil"]})
    recipe = read_recipe(str(run.path))
    without_code(recipe)
    assert (recipe.args.engine, recipe.play.vllm_command) == ("auto", ["vllm"])


def test_generated_code_of_a_run_from_elsewhere_waits_for_the_users_word(tmp_path: Path) -> None:
    run = owned(tmp_path / "run", {"allow_generated_code": True, "scorer": "python_tests"})
    recipe = read_recipe(str(run.path))
    with refused(RunDirectoryError, run.path, "allow_generated_code", "--trust_run"):
        check_trust_of_recipe(recipe, [], is_trusted=False)
    check_trust_of_recipe(recipe, ["--allow_generated_code", "true"], is_trusted=False)
    check_trust_of_recipe(recipe, [], is_trusted=True)
    check_trust_of_recipe(recipe, [], is_trusted=False)


def test_a_command_of_vllm_is_code_if_it_would_run() -> None:
    given = {"engine": "vllm", "vllm_command": ["/tmp/evil"], "vllm_args": ["--tool-parser-plugin", "evil.py"]}
    assert named_code(given) == {"vllm_command": "/tmp/evil", "vllm_args": "--tool-parser-plugin evil.py"}
    assert named_code({**given, "engine": "auto"}) == named_code(given)  # which asks it for its version
    assert named_code({**given, "engine": "transformers"}) == {}
    assert named_code({"engine": "vllm", "vllm_command": ["vllm"], "vllm_args": None}) == {}


def test_where_answers_are_judged_needs_trust() -> None:
    given = {"judge_url": "https://a/v1", "judge_key_variable": "AWS_KEY", "judge_model": "m"}
    assert named_code(given) == {"judge_url": "https://a/v1", "judge_key_variable": "AWS_KEY"}
    assert named_code({**given, "judge_key_variable": "JUDGE_API_KEY"}) == {"judge_url": "https://a/v1"}
    assert named_code({"judge_key_variable": "AWS_KEY"}) == {}


def test_where_prompts_and_a_key_are_sent_needs_trust() -> None:
    given = {"engine": "server", "server_urls": ["https://a", "https://b"], "server_key_variable": "AWS_KEY"}
    assert named_code(given) == {"server_urls": "https://a https://b", "server_key_variable": "AWS_KEY"}
    assert named_code({**given, "engine": "transformers"}) == {}
    command = {"server_reload_command": ["serve", "{model}"], "server_allow_plain_http": True}
    assert named_code({"engine": "server", **command, "server_reload": "command"}) == {
        "server_reload_command": "serve {model}", "server_allow_plain_http": "True",
    }  # fmt: skip
    assert "server_reload_command" not in named_code({"engine": "server", **command})
    assert named_code({"engine": "server", "server_key_variable": "VLLM_API_KEY"}) == {}


def test_what_ships_and_what_is_data_is_no_code() -> None:
    settings = {
        "dataset_name": "spin_trl.sentences:load", "scorer": ["spin_trl.sentences:score", "regex:a:b", "gsm8k"],
        "held_out_name": "./a:b.jsonl", "accelerate_config": "fsdp2", "attn_implementation": "sdpa",
        "model_init_kwargs": {"dtype": "bfloat16", "use_safetensors": True, "attn_implementation": "eager"},
    }  # fmt: skip
    assert named_code(settings) == {}
    for name in ("svamp:load_svamp", "svamp:load_svamp_sample", "mbpp:load_mbpp"):
        assert named_code({"test_name": f"spin_trl.data.published.{name}"}) == {}
    assert set(named_code({"test_name": "spin_trl.data.published.svamp:Path"})) == {"test_name"}


def test_code_of_a_run_from_elsewhere_waits_for_the_users_word(run: Ownership) -> None:
    """The message shows all of the code; consent is remembered."""
    recipe = read_recipe(str(run.path))
    with refused(RunDirectoryError, run.path, "evil:load", "evil:score", "--trust_run"):
        check_trust_of_recipe(recipe, [], is_trusted=False)
    with refused(RunDirectoryError, "evil:load"):
        check_trust_of_recipe(recipe, ["--scorer", "mine:score"], is_trusted=False)
    check_trust_of_recipe(recipe, ["--scorer", "evil:score", "--dataset_name", "evil:load"], is_trusted=False)
    check_trust_of_recipe(recipe, [], is_trusted=True)
    check_trust_of_recipe(recipe, [], is_trusted=False)


def test_a_copy_here_is_trusted_and_other_code_in_it_is_not(run: Ownership, tmp_path: Path) -> None:
    code = {"scorer": "evil:score"}
    TrustedRuns().add(run, code)
    copy = Ownership(Path(shutil.copytree(run.path, tmp_path / "copy")))
    check_trust(copy, code, is_trusted=False)
    with refused(RunDirectoryError, "evil:other"):
        check_trust(copy, {"scorer": "evil:other"}, is_trusted=False)


def test_a_run_of_another_machine_or_user_is_not_trusted(run: Ownership, tmp_path: Path) -> None:
    code = {"scorer": "evil:score"}
    here, other = TrustedRuns(tmp_path / "here"), TrustedRuns(tmp_path / "other")
    here.add(run, code)
    assert here.trusts(run, code)
    assert not other.trusts(run, code)


@pytest.mark.parametrize("identity", ["../../run/recipe", "", "0" * 31, "/etc/passwd", None, 7, {}])
def test_an_identity_leads_to_no_other_file(run: Ownership, tmp_path: Path, identity: Any) -> None:
    marker = json.loads((run.path / MARKER).read_text(encoding="utf-8"))
    del marker["checksum"]
    (run.path / MARKER).write_text(json.dumps({**marker, "identity": identity}), encoding="utf-8")
    assert not TrustedRuns(tmp_path / "here").trusts(run, {})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to somebody else")
def test_a_file_of_another_user_counts_as_none(run: Ownership, tmp_path: Path) -> None:
    runs = TrustedRuns(tmp_path / "here")
    runs.add(run, {"scorer": "evil:score"})
    for path in runs.folder.iterdir():
        os.chown(path, 12345, 12345)
    assert not runs.trusts(run, {"scorer": "evil:score"})


def test_a_marker_that_is_taken_away_does_not_help(run: Ownership) -> None:
    """A run of version 0.1.0 has no marker, but its settings still count as those of a run."""
    (run.path / MARKER).unlink()
    (run.path / "journal.jsonl").write_text('{"phase": "prepare", "stage": "data"}\n', encoding="utf-8")
    with refused(RunDirectoryError, "evil:score"):
        check_trust_of_recipe(read_recipe(str(run.path)), [], is_trusted=False)


def test_a_run_directory_sets_harmless_variables_alone(tmp_path: Path) -> None:
    run = owned(tmp_path / "run", {"env": {"LD_PRELOAD": "evil.so", "OMP_NUM_THREADS": "1"}})
    with refused(RecipeError, "LD_PRELOAD", run.path):
        read_recipe(str(run.path))
    assert "LD_PRELOAD" not in os.environ
    own = tmp_path / "own.yaml"
    own.write_text("{use_cpu: true, env: {SOME_VARIABLE: 1}}", encoding="utf-8")
    read_settings(str(own))
    assert os.environ["SOME_VARIABLE"] == "1"


def test_code_of_models_is_not_run_where_a_run_is_reopened(tmp_path: Path) -> None:
    """This applies to `eval` and `push`, which need neither scorer nor dataset."""
    run = owned(tmp_path / "run", {"trust_remote_code": True, "scorer": ["evil:score"], "dataset_name": "evil:load"})
    with refused(RunDirectoryError, "trust_remote_code", "--trust_run"):
        reopen(str(run.path), [])
    run = owned(tmp_path / "other", {"scorer": ["evil:score"], "dataset_name": "evil:load"})
    reopen(str(run.path), [])


def test_reading_a_run_imports_nothing_that_it_names(
    tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This applies to reports, cards and plans."""
    from spin_trl.hub.cards import write_cards
    from spin_trl.plan.planning import Wishes, make_plan
    from spin_trl.report.write import write_report
    from spin_trl.run.directory import RunDirectory

    (tmp_path / "evil.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {**CODE, "model_name_or_path": str(llama_folder), "max_length": 64}
    del settings["accelerate_config"], settings["model_init_kwargs"]
    run = owned(tmp_path / "run", settings)
    directory = RunDirectory(run.path)
    write_report(directory)
    write_cards(directory)
    make_plan(str(run.path), [], Wishes(rows=100, prompt_tokens=8, response_tokens=8), on_gpu=False)
    assert "evil" not in sys.modules
