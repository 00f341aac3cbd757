"""Runs push while they play, with the real client and a local Hub; so do `spin-trl push` and `spin-trl card`."""

import shlex
import threading
import time
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from peft import LoraConfig
from rich.console import Console
from safetensors.torch import load as load_safetensors

import runs
import tiny
from hub.server import TOKEN, USER, LocalHub, problems_of_card
from messages import names, refused
from read_only import read_only
from spin_trl import SPINConfig
from spin_trl.cli import main
from spin_trl.errors import RecipeError
from spin_trl.hub.push import Pushing
from spin_trl.play.open import reopen

REPO = f"{USER}/small"
SETTINGS = {"push_to_hub": True, "hub_model_id": "small", "keep_iterations": 2}


def card_on(hub: LocalHub, branch: str) -> ModelCard:
    return ModelCard(hub.model(REPO).branches[branch]["README.md"].decode())


def test_a_run_is_on_the_hub_when_it_has_ended(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, capfd, caplog
) -> None:
    """There are branches for the iterations, the best on main, cards, and nothing else."""
    caplog.set_level("DEBUG")
    extra = {"hub_private_repo": True, "push_generations": True, "hub_license": "mit", "save_strategy": "steps"}
    recipe = runs.recipe(tmp_path, llama_folder, **SETTINGS, **extra, save_steps=1)
    assert main(["run", str(recipe)]) == 0
    repo, run = hub.model(REPO), tmp_path / "run"
    assert set(repo.branches) == {"main", "iter-0", "iter-1"}
    assert repo.private
    for iteration in (0, 1):
        files = repo.branches[f"iter-{iteration}"]
        own = runs.contents(run / f"iteration-{iteration}" / "model", ignore=("README.md",))
        assert {name: content for name, content in files.items() if name in own}.keys() == own.keys()
        assert files["model.safetensors"] == own["model.safetensors"]
        assert set(files) - set(own) == {".gitattributes", "README.md"}, "no checkpoints, no pickles"
    best = yaml.safe_load((run / "best.json").read_text(encoding="utf-8"))["stage"]
    number = best.rpartition("-")[2]
    assert repo.branches["main"]["model.safetensors"] == repo.branches[f"iter-{number}"]["model.safetensors"]
    assert f"iteration {number}" in card_on(hub, "main").text
    assert 'revision="iter-1"' in card_on(hub, "iter-1").text
    assert 'revision="iter' not in card_on(hub, "main").text.split("## Results")[0]
    assert problems_of_card(repo.branches["main"]["README.md"].decode(), "model") == []
    assert [(one["stage"], one["revision"]) for one in runs.journal(run) if one["phase"] == "push"][-1] == (
        best,
        "main",
    )

    pairs = hub.dataset(f"{REPO}-pairs")
    assert {"iteration-0/train-00000.parquet", "iteration-1/train-00000.parquet"} <= set(pairs.branches["main"])
    card = pairs.branches["main"]["README.md"].decode()
    assert problems_of_card(card, "dataset") == []
    assert "| `iteration-1` | 12 | iteration 0 | `someone/small@iter-0` |" in card

    out = capfd.readouterr()
    everything = [
        out.out,
        out.err,
        caplog.text,
        (run / "journal.jsonl").read_text(encoding="utf-8"),
        (run / "recipe.yaml").read_text(encoding="utf-8"),
    ]
    pushed = [content for one in (repo, pairs) for files in one.branches.values() for content in files.values()]
    assert not any(TOKEN in text for text in everything)
    assert not any(TOKEN.encode() in content or str(tmp_path).encode() in content for content in pushed)
    assert "very-secret" not in out.out + out.err


def test_an_adapter_is_pushed_alone(hub: LocalHub, tmp_path: Path, llama_folder: Path) -> None:
    """The frozen opponent is left out, and the base is not named by a path of this machine."""
    lora = {"use_peft": True, "lora_r": 2}
    recipe = runs.recipe(tmp_path, llama_folder, **SETTINGS, **lora)
    assert main(["run", str(recipe)]) == 0
    files = hub.model(REPO).branches["iter-1"]
    assert [name for name in files if name.endswith(".safetensors")] == ["adapter_model.safetensors"]
    assert not any("ref" in name for name in load_safetensors(files["adapter_model.safetensors"]))
    assert yaml.safe_load(files["adapter_config.json"])["base_model_name_or_path"] == llama_folder.name
    assert card_on(hub, "iter-1").data.library_name == "peft"


def test_an_adapter_on_a_start_of_the_runs_own_has_it_on_a_branch(hub: LocalHub, tmp_path: Path, llama) -> None:
    """A model that was passed as an object, or built by the run, exists nowhere else."""
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    runs.build(llama, tmp_path / "run", peft_config=lora, num_iterations=1, **SETTINGS).run()
    repo = hub.model(REPO)
    assert set(repo.branches) == {"main", "start", "iter-0"}
    assert "model.safetensors" in repo.branches["start"]
    config = yaml.safe_load(repo.branches["iter-0"]["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == (REPO, "start")
    assert 'from_pretrained("someone/small", revision="start"' in card_on(hub, "iter-0").text


@pytest.mark.slow
def test_a_hub_that_never_answers_fails_no_run_and_push_brings_it_there_later(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, capfd
) -> None:
    """There is a one-line warning; later, everything missing is pushed once."""
    hub.fail("/api/", times=-1)
    recipe = runs.recipe(tmp_path, llama_folder, **SETTINGS)
    assert main(["run", str(recipe)]) == 0
    out = capfd.readouterr().out
    assert names(out, f"`spin-trl push {shlex.quote(str(tmp_path / 'run'))}`", 500)
    assert not [one for one in runs.journal(tmp_path / "run") if one["phase"] == "push"]
    assert main(["push", str(tmp_path / "run")]) == 1
    assert names(capfd.readouterr().err, "HfHubHTTPError", 500)
    hub.faults.clear()
    hub.fail("/commit/", status=None)
    assert main(["push", str(tmp_path / "run")]) == 0
    assert set(hub.model(REPO).branches) == {"main", "iter-0", "iter-1"}
    commits = hub.count("/commit/")
    assert any(names(line, "iteration-0:", REPO, "iter-0") for line in capfd.readouterr().out.splitlines())
    assert main(["push", str(tmp_path / "run")]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert names(line, "Everything", tmp_path / "run")
    assert hub.count("/commit/") == commits


def test_push_takes_another_name_and_the_pairs(hub: LocalHub, tmp_path: Path, llama_folder: Path, capfd) -> None:
    """The run was not set to be pushed; everything comes from its directory."""
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1)
    assert main(["run", str(recipe)]) == 0
    assert hub.requests == []
    (tmp_path / "train.jsonl").unlink()
    arguments = ["--hub_model_id", "org/other", "--hub_private_repo", "true", "--push_generations", "true"]
    assert main(["push", str(tmp_path / "run"), *arguments, "--hub_license", "mit"]) == 0
    assert hub.model("org/other").private
    assert ModelCard(hub.model("org/other").branches["main"]["README.md"].decode()).data.license == "mit"
    assert "iteration-0/train-00000.parquet" in hub.dataset("org/other-pairs").branches["main"]


def test_a_run_that_cannot_be_written_to_is_pushed_and_its_journal_is_said_to_lack_it(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, capsys
) -> None:
    """On a read-only mount or another user's run, pushes are not recorded, so they are repeated the next time."""
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1, use_peft=True, lora_r=2)
    assert main(["run", str(recipe)]) == 0
    (tmp_path / "run").rename(tmp_path / "moved")
    before = runs.contents(tmp_path / "moved")
    arguments = ["push", str(tmp_path / "moved"), "--hub_model_id", "small", "--push_generations", "true"]
    capsys.readouterr()
    for _ in range(2):
        with read_only(tmp_path / "moved"):
            assert main(arguments) == 0
        said = [line for line in capsys.readouterr().out.splitlines() if names(line, tmp_path / "moved")]
        assert len(said) == 1
        assert names(said[0], "`spin-trl push`")
    assert {"main", "iter-0"} <= set(hub.model(REPO).branches)
    assert "iteration-0/train-00000.parquet" in hub.dataset(f"{REPO}-pairs").branches["main"]
    assert runs.contents(tmp_path / "moved") == before


def test_a_run_of_a_gpu_is_pushed_from_a_machine_without_one(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, capfd
) -> None:
    """This may be a login node or a laptop, where training with `bf16` is refused."""
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1)
    assert main(["run", str(recipe)]) == 0
    frozen = tmp_path / "run" / "recipe.yaml"
    settings = yaml.safe_load(frozen.read_text(encoding="utf-8"))
    del settings["use_cpu"]
    frozen.write_text(yaml.safe_dump({**settings, "bf16": True}), encoding="utf-8")
    assert main(["push", str(tmp_path / "run"), "--hub_model_id", "small"]) == 0
    assert "iter-0" in hub.model(REPO).branches


def test_the_name_of_the_run_directory_is_the_usual_name(hub: LocalHub, tmp_path: Path, llama_folder: Path) -> None:
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1, run_dir=str(tmp_path / "my run"))
    assert main(["run", str(recipe), "--push_to_hub", "true"]) == 0
    assert set(hub.model(f"{USER}/my-run").branches) == {"main", "iter-0"}


def test_a_run_that_goes_on_pushes_what_is_missing_only(hub: LocalHub, tmp_path: Path, llama_folder: Path) -> None:
    """Its Hub settings may change between calls."""
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1, push_to_hub=True, hub_model_id="small")
    assert main(["run", str(recipe)]) == 0
    first = list(hub.model(REPO).commits["iter-0"])
    arguments = ["--num_iterations", "2", "--push_generations", "true", "--hub_license", "mit"]
    assert main(["run", str(recipe), *arguments]) == 0
    assert hub.model(REPO).commits["iter-0"] == first
    assert "iter-1" in hub.model(REPO).branches
    assert (f"{REPO}-pairs") in [name for kind, name in hub.repositories if kind == "dataset"]


@pytest.mark.slow
def test_what_dpo_made_has_a_branch_of_its_own(hub: LocalHub, tmp_path: Path, llama_folder: Path) -> None:
    """In a run that had finished and been pushed without it, too. A push that failed is made up for by the next call, which
    pushes nothing else again, and the result is on `main` if it is the best."""
    pairs = tiny.write_jsonl(tmp_path / "pairs.jsonl", tiny.preference(24))
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1, push_to_hub=True, hub_model_id="small")
    assert main(["run", str(recipe)]) == 0
    repo, run = hub.model(REPO), tmp_path / "run"
    assert set(repo.branches) == {"main", "iter-0"}
    before = list(repo.commits["iter-0"])
    more = ["--then_dpo", "best", "--dpo_name", str(pairs), "--dpo_learning_rate", "1e-2", "--dpo_max_steps", "4"]
    hub.fail("/commit/dpo-iter-0", times=-1, status=403)
    assert main(["run", str(recipe), *more]) == 0
    made = runs.weights(run / "dpo/iteration-0/model")
    assert repo.branches.get("dpo-iter-0", {}).get("model.safetensors") != made
    hub.faults.clear()
    assert main(["run", str(recipe), *more]) == 0
    assert set(repo.branches) == {"main", "iter-0", "dpo-iter-0"}
    assert repo.commits["iter-0"] == before
    pushed = repo.branches["dpo-iter-0"]["model.safetensors"]
    assert pushed == made != repo.branches["iter-0"]["model.safetensors"]
    assert names(card_on(hub, "dpo-iter-0").text, "preference pairs", 'revision="dpo-iter-0"')
    best = yaml.safe_load((run / "best.json").read_text(encoding="utf-8"))["stage"]
    assert repo.branches["main"]["model.safetensors"] == runs.weights(run / best / "model")
    commits = hub.count("/commit/")
    assert main(["run", str(recipe), *more]) == 0
    assert hub.count("/commit/") == commits


def test_without_a_token_a_run_plays_on(hub: LocalHub, tmp_path: Path, llama_folder: Path, capfd, monkeypatch) -> None:
    """It warns once, with what to do."""
    monkeypatch.delenv("HF_TOKEN")
    recipe = runs.recipe(tmp_path, llama_folder, **SETTINGS, hub_backup=True, num_iterations=1)
    assert main(["run", str(recipe)]) == 0
    out = capfd.readouterr().out
    assert out.count("`hf auth login`") == 1
    assert names(out, "no token", "`HF_TOKEN`")
    assert hub.requests == []
    assert main(["push", str(tmp_path / "run")]) == 1


def test_a_smoke_run_is_not_pushed(hub: LocalHub, tmp_path: Path, llama_folder: Path) -> None:
    """It only checks that everything works, and produces no useful model."""
    recipe = runs.recipe(tmp_path, llama_folder, **SETTINGS)
    assert main(["run", str(recipe), "--smoke", "true"]) == 0
    assert hub.requests == []


@pytest.mark.parametrize("name", ["hub_token", "push_to_hub_token"])
def test_a_token_is_no_setting(name: str, tmp_path: Path, llama_folder: Path, capsys) -> None:
    """It is refused in every setting, and not repeated in the message."""
    recipe = runs.recipe(tmp_path, llama_folder)
    for arguments in (["run", str(recipe), f"--{name}", TOKEN], ["push", str(tmp_path), f"--{name}={TOKEN}"]):
        assert main(arguments) == 2
        message = capsys.readouterr().err
        assert names(message, f"`{name}`", "`hf auth login`")
        assert TOKEN not in message
    recipe = runs.recipe(tmp_path, llama_folder, **{name: TOKEN})
    assert main(["run", str(recipe)]) == 2
    assert TOKEN not in capsys.readouterr().err
    recipe = runs.recipe(tmp_path, llama_folder, env={"HF_TOKEN": TOKEN})
    assert main(["run", str(recipe)]) == 2
    assert names(capsys.readouterr().err, f"{recipe}: `HF_TOKEN`")


def test_a_token_is_no_argument_in_python_either(llama) -> None:
    with refused(RecipeError, "`hub_token`", "`HF_TOKEN`"):
        runs.build(llama, hub_token=TOKEN)
    with refused(RecipeError, "`model_init_kwargs.token`", "`HF_TOKEN`") as caught:
        runs.build(llama, model_init_kwargs={"token": TOKEN})
    assert TOKEN not in str(caught.value)


def test_a_run_is_kept_every_ten_minutes(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds within a long phase: the pushing thread wakes up by itself."""
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1)
    assert main(["run", str(recipe)]) == 0
    run = reopen(str(tmp_path / "run"))
    run.args.push_to_hub, run.args.hub_model_id, run.play.hub_backup = True, "small", True
    waited: list[float | None] = []
    wait = threading.Event.wait

    def spy(event: threading.Event, timeout: float | None = None) -> bool:
        waited.append(timeout)
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", spy)
    with Pushing(run, Console(quiet=True), active=True):
        deadline = time.monotonic() + 60
        while 600.0 not in waited and time.monotonic() < deadline:
            time.sleep(0.05)
    assert 600.0 in waited


def test_an_interrupt_waits_for_no_push(hub: LocalHub, tmp_path: Path, llama_folder: Path) -> None:
    """The normal end of a run does wait."""
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1)
    assert main(["run", str(recipe)]) == 0
    run = reopen(str(tmp_path / "run"))
    run.args.push_to_hub, run.args.hub_model_id = True, "small"
    is_there, goes_on = threading.Event(), threading.Event()

    def hold(request: str) -> None:
        if "/commit/" in request:
            is_there.set()
            goes_on.wait(60)

    hub.hooks.append(hold)
    pushing = Pushing(run, Console(quiet=True), active=True)

    def interrupted() -> None:
        with pushing:
            pushing.finished(0)
            assert is_there.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not goes_on.is_set(), "the server still holds the push back, and yet we are here"
    goes_on.set()
    pushing._thread.join(60)
    assert not pushing._thread.is_alive()


def test_cards_are_written_from_the_directory_alone(tmp_path: Path, llama_folder: Path, capsys) -> None:
    recipe = runs.recipe(tmp_path, llama_folder, num_iterations=1, baseline="sft")
    assert main(["run", str(recipe)]) == 0
    capsys.readouterr()
    run = tmp_path / "run"
    for path in run.rglob("README.md"):
        path.unlink()
    assert main(["card", str(run)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert paths == [
        run / "iteration-0" / "model" / "README.md",
        run / "baseline" / "sft" / "iteration-0" / "model" / "README.md",
        run / "hub" / "dataset" / "README.md",
    ]
    for path in paths:
        assert problems_of_card(path.read_text(encoding="utf-8"), "dataset" if "hub" in path.parts else "model") == []
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert "supervised training" in paths[1].read_text(encoding="utf-8")


def test_cards_and_pushes_of_what_is_no_run_are_refused(tmp_path: Path, capsys, hub: LocalHub) -> None:
    for command in ("card", "push"):
        assert main([command, str(tmp_path)]) == 2
        assert names(capsys.readouterr().err, tmp_path, "recipe.yaml")
    with pytest.raises(SystemExit) as error:
        main(["push", str(tmp_path), "--learning_rate", "1"])
    assert error.value.code == 2
    assert names(capsys.readouterr().err, "--learning_rate")


def test_the_settings_of_the_trainers_own_pushes_are_off() -> None:
    """A run pushes accepted iterations; a trainer on its own behaves like DPOTrainer."""
    assert SPINConfig("out", use_cpu=True, bf16=False, hub_token=TOKEN).hub_token == TOKEN
