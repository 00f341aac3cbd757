"""With backups of the run directory on the Hub, losing a machine loses nothing."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import made_up
import runs
from hub.server import TOKEN, USER, LocalHub
from messages import names, refused
from processes import alike
from spin_trl.cli import main
from spin_trl.errors import HubError
from spin_trl.hub.backup import BRANCH, Keeper, kept_files_of_run, restore
from spin_trl.hub.client import Hub
from spin_trl.run.checkpoint import CHECKPOINT_MANIFEST, newest_complete, write_manifest
from spin_trl.run.directory import RunDirectory

REPO = f"{USER}/small"
KEPT = {"push_to_hub": True, "hub_model_id": "small", "hub_backup": True}
SLOW = {"num_train_epochs": 40, "save_strategy": "steps", "save_steps": 15, "lr_scheduler_type": "linear"}
STAGES = ("iteration-0", "iteration-1")


def directory(path: Path) -> RunDirectory:
    """Return a run in the middle of training, with all the files that exist then."""
    made_up.write_run(path, made_up.record(made_up.stage("start", range(3)), best="start"))
    train = path / "iteration-0" / "train"
    for step, is_complete in ((10, True), (20, True), (30, False)):
        folder = train / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(f"at step {step}".encode())
        if is_complete:
            write_manifest(folder, 1)
    (train / "pairs").mkdir()
    (train / "pairs" / "cache.arrow").write_bytes(b"half")
    (path / "data" / "train").mkdir(parents=True)
    (path / "data" / "train" / "data.arrow").write_bytes(b"rows")
    (path / "iteration-0" / "generations").mkdir()
    (path / "iteration-0" / "generations" / "shard-00000.parquet").write_bytes(b"answers")
    (path / "iteration-0" / "generations" / ".shard-00001.parquet.7.tmp").write_bytes(b"half")
    (path / ".lock").touch()
    (path / ".progress.json").touch()
    (path / "best").symlink_to("start")
    (path / "notes-of-the-user.txt").write_text("mine", encoding="utf-8")
    return RunDirectory(path)


def test_what_is_kept_is_what_a_run_goes_on_from(tmp_path: Path) -> None:
    """Locks, links, partial files and caches are left out, and of the checkpoints only the newest complete one is kept."""
    found = {path.relative_to(tmp_path).as_posix() for path in kept_files_of_run(directory(tmp_path))}
    assert {name for name in found if "/train/" in name} == {
        "data/train/data.arrow",
        "iteration-0/train/checkpoint-20/checkpoint.json",
        "iteration-0/train/checkpoint-20/model.safetensors",
    }
    assert "iteration-0/generations/shard-00000.parquet" in found
    assert {"recipe.yaml", "best.json", "start/metrics.json"} <= found
    assert not [
        name for name in found if ".lock" in name or ".tmp" in name or name.startswith((".", "best/", "notes"))
    ]


def test_no_pickle_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    """Version 0.1.0 left Trainer's arguments next to every model, including the token if one was given."""
    run = directory(tmp_path)
    (tmp_path / "iteration-0" / "model").mkdir()
    for folder in ("iteration-0/model", "iteration-0/train/checkpoint-20"):
        (tmp_path / folder / "adapter_model.safetensors").write_bytes(b"weights")
        (tmp_path / folder / "training_args.bin").write_bytes(b"a pickle")
    write_manifest(tmp_path / "iteration-0/train/checkpoint-20", 1)
    found = {path.relative_to(tmp_path).as_posix() for path in kept_files_of_run(run)}
    assert "iteration-0/model/adapter_model.safetensors" in found
    assert "iteration-0/train/checkpoint-20/adapter_model.safetensors" in found
    assert not [name for name in found if name.endswith(".bin")]


def test_only_what_has_changed_is_sent_and_what_has_gone_goes(hub: LocalHub, tmp_path: Path) -> None:
    run = directory(tmp_path)
    api = Hub()
    api.create(REPO, "model", None)
    keeper = Keeper(run, api)
    assert keeper.send(REPO)
    assert not keeper.send(REPO), "nothing has changed"
    uploads, kept = hub.count("PUT /lfs/"), hub.model(REPO).branches[BRANCH]
    assert kept["iteration-0/train/checkpoint-20/model.safetensors"] == b"at step 20"
    shutil.rmtree(tmp_path / "iteration-0" / "train")
    (tmp_path / "table.txt").write_text("a table", encoding="utf-8")
    assert keeper.send(REPO)
    kept = hub.model(REPO).branches[BRANCH]
    assert not [name for name in kept if "checkpoint" in name]
    assert kept["table.txt"] == b"a table"
    assert kept["iteration-0/generations/shard-00000.parquet"] == b"answers"
    assert hub.count("PUT /lfs/") == uploads


def test_the_journal_never_names_work_that_is_not_there(hub: LocalHub, tmp_path: Path) -> None:
    """It is read before the files are listed: files that are finished in between are sent but not named."""
    run = directory(tmp_path)
    api = Hub()
    api.create(REPO, "model", None)

    def finish(request: str) -> None:
        if "preupload" in request and not (tmp_path / "iteration-0" / "metrics.json").exists():
            (tmp_path / "iteration-0" / "metrics.json").write_text("{}", encoding="utf-8")
            with run.journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"phase": "train", "stage": "iteration-0", "time": 1.0}) + "\n{half a li")

    hub.hooks.append(finish)
    keeper = Keeper(run, api)
    keeper.send(REPO)
    kept = hub.model(REPO).branches[BRANCH]
    assert b"train" not in kept["journal.jsonl"]
    keeper.send(REPO)
    kept = hub.model(REPO).branches[BRANCH]
    assert kept["journal.jsonl"].endswith(b'"time": 1.0}\n'), "whole lines only"
    assert "iteration-0/metrics.json" in kept


def test_a_restored_directory_is_the_same(hub: LocalHub, tmp_path: Path) -> None:
    run = directory(tmp_path / "one")
    api = Hub()
    api.create(REPO, "model", None)
    Keeper(run, api).send(REPO)
    other = RunDirectory(tmp_path / "two")
    other.path.mkdir()
    assert restore(other, api, REPO)
    expected = {str(path.relative_to(run.path)): path.read_bytes() for path in kept_files_of_run(run)}
    assert runs.contents(other.path) == expected | {"journal.jsonl": run.journal.read_bytes()}


def test_an_earlier_backup_is_taken_back_without_its_pickles(hub: LocalHub, tmp_path: Path) -> None:
    """Version 0.1.0 stored Trainer's arguments next to models and in checkpoints, which are also valid without them."""
    run = directory(tmp_path / "one")
    newest = run.path / "iteration-0" / "train" / "checkpoint-20"
    manifest = json.loads((newest / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
    manifest["files"]["training_args.bin"] = 8
    (newest / CHECKPOINT_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    files: dict[str, Any] = {path.relative_to(run.path).as_posix(): path for path in kept_files_of_run(run)}
    for folder in ("iteration-0/model", "iteration-0/train/checkpoint-20"):
        files[f"{folder}/training_args.bin"] = b"a pickle"
    files["journal.jsonl"] = run.journal
    api = Hub()
    api.create(REPO, "model", None)
    api.push(REPO, BRANCH, lambda: files, "as version 0.1.0 kept it")
    other = RunDirectory(tmp_path / "two")
    other.path.mkdir()
    assert restore(other, api, REPO)
    assert not list(other.path.rglob("training_args.bin"))
    train = other.path / "iteration-0" / "train"
    assert newest_complete(train) == train / "checkpoint-20"


def test_nothing_but_what_a_backup_sends_is_restored(hub: LocalHub, tmp_path: Path) -> None:
    """Write access to the branch is not enough to place other files in the run directory, or to change file ownership."""
    run = directory(tmp_path / "one")
    files: dict[str, Any] = {path.relative_to(run.path).as_posix(): path for path in kept_files_of_run(run)}
    marker = {"entries": {"data": "photos"}, "kind": "run", "paths_from": "/", "identity": "0" * 32}
    files |= {
        ".spin_trl.json": json.dumps(marker).encode(),
        "evil.py": b"evil",
        "data/.bashrc": b"evil",
        ".env": b"evil",
    }
    files["journal.jsonl"] = run.journal
    api = Hub()
    api.create(REPO, "model", None)
    api.push(REPO, BRANCH, lambda: files, "with more")
    other = RunDirectory(tmp_path / "two")
    other.ownership.claim()
    assert restore(other, api, REPO)
    assert other.ownership.marker().identity is None
    assert "photos" not in other.ownership.marker().entries.values()
    assert not [path for path in other.path.rglob("*") if path.name in ("evil.py", ".bashrc", ".env")]


def test_where_nothing_is_kept_nothing_is_restored(hub: LocalHub, tmp_path: Path) -> None:
    other = RunDirectory(tmp_path)
    assert not restore(other, Hub(), REPO)
    Hub().create(REPO, "model", None)
    assert not restore(other, Hub(), REPO)


def test_adapters_find_the_runs_own_start_at_its_new_place(hub: LocalHub, tmp_path: Path) -> None:
    run = directory(tmp_path / "one")
    for stage in ("start", "iteration-0"):
        run.model(stage).mkdir()
    (run.model("start") / "config.json").write_text("{}", encoding="utf-8")
    config = {"base_model_name_or_path": str(run.model("start"))}
    (run.model("iteration-0") / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    api = Hub()
    api.create(REPO, "model", None)
    Keeper(run, api).send(REPO)
    (tmp_path / "one").rename(tmp_path / "lost")
    other = RunDirectory(tmp_path / "two")
    other.path.mkdir()
    restore(other, api, REPO)
    found = json.loads((other.model("iteration-0") / "adapter_config.json").read_text(encoding="utf-8"))
    assert found["base_model_name_or_path"] == str(other.model("start"))


def kill_when_kept(recipe: Path, hub: LocalHub, run_dir: Path) -> None:
    """Play in a separate process, and kill it without warning once a checkpoint of iteration 1 is on the Hub."""
    code = (
        "import sys; from spin_trl.hub import push; from spin_trl.cli import main\n"
        "push.KEEPS_EVERY = 0.3\n"
        f"sys.exit(main(['run', {str(recipe)!r}, '--run_dir', {str(run_dir)!r}]))"
    )
    of_the_hub = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=alike(**of_the_hub),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 150

    def is_kept() -> bool:
        repository = hub.repositories.get(("model", REPO))
        return repository is not None and any(
            name.startswith("iteration-1/train/checkpoint-") for name in repository.branches.get(BRANCH, {})
        )

    while not is_kept() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert process.returncode == -signal.SIGKILL, process.stderr.read().decode()


@pytest.mark.slow
def test_a_run_whose_machine_is_lost_goes_on_elsewhere_to_the_same_weights(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, capfd
) -> None:
    """They are bitwise identical to those of an undisturbed run."""
    undisturbed = runs.recipe(tmp_path / "undisturbed", llama_folder, **SLOW)
    assert main(["run", str(undisturbed)]) == 0
    recipe = runs.recipe(tmp_path / "recipe", llama_folder, **SLOW, **KEPT)
    kill_when_kept(recipe, hub, tmp_path / "lost")
    assert ("train", "iteration-1") not in runs.steps(tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost")
    capfd.readouterr()
    assert main(["run", str(recipe), "--run_dir", str(tmp_path / "found")]) == 0
    out = capfd.readouterr().out
    assert names(out, tmp_path / "found", REPO, f"branch {BRANCH}")
    assert "iteration-0: train" not in out, "that was done"
    for stage in STAGES:
        expected = runs.weights(tmp_path / "undisturbed" / "run" / stage / "model")
        assert runs.weights(tmp_path / "found" / stage / "model") == expected
        assert hub.model(REPO).branches[BRANCH][f"{stage}/model/model.safetensors"] == expected
    assert {"main", "iter-0", "iter-1", "run"} <= set(hub.model(REPO).branches)
    best = yaml.safe_load((tmp_path / "found" / "best.json").read_text(encoding="utf-8"))
    assert Path(best["model"]).is_dir(), "at its new path"
    assert main(["report", str(tmp_path / "found")]) == 0


def test_a_run_that_cant_ask_whether_it_is_kept_does_not_begin_anew(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, capsys
) -> None:
    """It would overwrite the backup."""
    hub.fail("/revision/run", times=-1, status=403)
    recipe = runs.recipe(tmp_path, llama_folder, **KEPT)
    assert main(["run", str(recipe)]) == 1
    assert names(capsys.readouterr().err, REPO, "`hub_backup`", "`--hub_backup false`")
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_data_is_not_made_public_unless_that_is_said(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, capsys
) -> None:
    """A repository created for a backup is private; nothing is pushed to a public one, not even cards."""
    Hub().create(f"{USER}/public", "model", False)
    recipe = runs.recipe(tmp_path, llama_folder, **KEPT, num_iterations=1)
    assert main(["run", str(recipe), "--hub_model_id", "public"]) == 0
    assert names(capsys.readouterr().out, f"{USER}/public", "`hub_model_id`", "`hub_private_repo: false`")
    assert set(hub.model(f"{USER}/public").branches) == {"main"}
    assert set(hub.model(f"{USER}/public").branches["main"]) == {".gitattributes"}
    assert main(["run", str(recipe)]) == 0
    assert hub.model(REPO).private
    assert BRANCH in hub.model(REPO).branches
    assert main(["run", str(recipe), "--hub_model_id", "public", "--hub_private_repo", "false"]) == 0
    assert BRANCH in hub.model(f"{USER}/public").branches


@pytest.mark.slow
def test_what_another_machine_has_gone_on_to_is_not_replaced(
    hub: LocalHub, tmp_path: Path, llama_folder: Path, capsys
) -> None:
    """If two machines have one run, the one behind backs nothing up and reports what to do; the same holds for another
    run.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    recipe = runs.recipe(tmp_path, llama_folder, **KEPT, num_iterations=1)
    assert main(["run", str(recipe), "--run_dir", str(first)]) == 0
    assert main(["run", str(recipe), "--run_dir", str(second), "--num_iterations", "2"]) == 0
    ahead = dict(hub.model(REPO).branches[BRANCH])
    assert "iteration-1/metrics.json" in ahead
    capsys.readouterr()
    assert main(["run", str(recipe), "--run_dir", str(first), "--num_iterations", "3"]) == 0
    assert names(capsys.readouterr().out, f"`{BRANCH}`", REPO, first, "`hub_model_id`")
    assert hub.model(REPO).branches[BRANCH] == ahead
    # A different run that was started without the Hub, and is then backed up under the same name.
    other = tmp_path / "other"
    assert main(["run", str(recipe), "--run_dir", str(other), "--push_to_hub", "false", "--seed", "1"]) == 0
    assert main(["run", str(recipe), "--run_dir", str(other), "--seed", "1"]) == 0
    assert names(capsys.readouterr().out, f"`{BRANCH}`", REPO, other, "`hub_model_id`")
    assert hub.model(REPO).branches[BRANCH] == ahead


@pytest.mark.slow
@pytest.mark.parametrize("existing", ["continue", "overwrite"])
def test_a_run_that_overwrites_begins_anew(
    existing: str, hub: LocalHub, tmp_path: Path, llama_folder: Path, capsys, monkeypatch
) -> None:
    recipe = runs.recipe(tmp_path, llama_folder, **KEPT, num_iterations=1)
    assert main(["run", str(recipe)]) == 0
    shutil.rmtree(tmp_path / "run")
    capsys.readouterr()
    assert main(["run", str(recipe), "--existing_run", existing]) == 0
    out = capsys.readouterr().out
    assert names(out, tmp_path / "run", REPO, f"branch {BRANCH}") == (existing == "continue")
    assert ("iteration-0: train" in out) == (existing == "overwrite")


def test_a_branch_that_holds_no_run_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    api = Hub()
    api.create(REPO, "model", None)
    api.push(REPO, BRANCH, lambda: {"file.txt": b"else"}, "something else")
    with refused(HubError, f"`{BRANCH}`", REPO, "journal.jsonl"):
        restore(RunDirectory(tmp_path), api, REPO)
