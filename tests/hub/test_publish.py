"""A run pushes accepted iterations and puts the best on main, and nothing twice."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import made_up
from hub.server import USER, LocalHub
from messages import names, refused
from spin_trl import SelfPlayConfig, SPINConfig
from spin_trl.errors import HubError
from spin_trl.hub.client import Hub
from spin_trl.hub.publish import Publisher, model_files, targets_of
from spin_trl.report.record import RunRecord
from spin_trl.run.directory import RunDirectory
from spin_trl.run.run import Run

REPO = f"{USER}/small"


def gate(number: int, decision: str = "continued", **more) -> dict:
    return {"phase": "gate", "stage": f"iteration-{number}", "time": 9.0, "decision": decision, **more}


def train(number: int) -> dict:
    return {"phase": "train", "stage": f"iteration-{number}", "time": 8.0, "seconds": 1.0, "steps": 3}


def played(path: Path, *stages, best: str, journal: list[dict], models: list[str] | None = None, **settings) -> Run:
    """Return a synthetic run directory, with weights that identify their stage."""
    record: RunRecord = made_up.record(*stages, best=best, journal=journal)
    made_up.write_run(path, record, **settings)
    for stage in models if models is not None else [one.name for one in stages if one.name != "start"]:
        folder = path / stage / "model"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(f"weights of {stage}".encode())
        (folder / "config.json").write_text(json.dumps({"_name_or_path": str(path)}), encoding="utf-8")
        (folder / "training_args.bin").write_bytes(b"a pickle")
        (folder / "checkpoint-3").mkdir()
    args = SPINConfig("out", use_cpu=True, bf16=False, hub_model_id="small")
    return Run(RunDirectory(path), args, SelfPlayConfig(), model="org/base")


THREE = [
    made_up.stage("start", range(40)),
    made_up.stage("iteration-0", range(70)),
    made_up.stage("iteration-1", range(60)),
]
DECIDED = [train(0), gate(0, "improved"), train(1), gate(1)]


def push(run: Run, upto: int | None = None) -> list[str]:
    """Push what is missing; return the messages."""
    said: list[str] = []
    Publisher(run, Hub(), said.append).push_missing(upto)
    return said


def are_of(said: list[str], *pushes: tuple[str, str]) -> bool:
    """Return whether the lines name, in this order, each stage and the branch it was pushed to."""
    return len(said) == len(pushes) and all(
        names(line, f"{stage}:", REPO, branch) for line, (stage, branch) in zip(said, pushes, strict=True)
    )


def test_main_holds_the_best_and_not_the_newest(hub: LocalHub, tmp_path: Path) -> None:
    run = played(tmp_path / "run", *THREE, best="iteration-0", journal=DECIDED)
    assert are_of(push(run), ("iteration-0", "iter-0"), ("iteration-1", "iter-1"), ("iteration-0", "main"))
    branches = hub.model(REPO).branches
    assert branches["main"]["model.safetensors"] == b"weights of iteration-0"
    assert branches["iter-1"]["model.safetensors"] == b"weights of iteration-1"
    assert sorted(branches["main"]) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert str(tmp_path).encode() not in branches["main"]["config.json"]
    assert push(run) == []


def test_a_later_best_takes_mains_place_and_leaves_nothing_of_the_old(hub: LocalHub, tmp_path: Path) -> None:
    run = played(tmp_path / "run", *THREE, best="iteration-0", journal=DECIDED)
    push(run, upto=0)
    assert set(hub.model(REPO).branches) == {"main", "iter-0"}
    (tmp_path / "run" / "iteration-1" / "model" / "model.safetensors").rename(
        tmp_path / "run" / "iteration-1" / "model" / "model-00001-of-00001.safetensors"
    )
    (tmp_path / "run" / "best.json").write_text(json.dumps({"stage": "iteration-1"}), encoding="utf-8")
    push(run)
    main = hub.model(REPO).branches["main"]
    assert [name for name in main if name.endswith(".safetensors")] == ["model-00001-of-00001.safetensors"]


def test_what_the_gate_gave_up_or_has_not_judged_is_not_pushed(hub: LocalHub, tmp_path: Path) -> None:
    stages = [*THREE, made_up.stage("iteration-2", range(65))]
    journal = [train(0), gate(0, "improved"), train(1), gate(1, "fell back", opponent="iteration-0"), train(2)]
    push(played(tmp_path / "run", *stages, best="iteration-0", journal=journal))
    assert set(hub.model(REPO).branches) == {"main", "iter-0"}


def test_a_diverged_model_is_not_pushed(hub: LocalHub, tmp_path: Path) -> None:
    diverged = made_up.stage("iteration-1", figures={"held_out": 100.0})
    push(played(tmp_path / "run", *THREE[:2], diverged, best="iteration-0", journal=DECIDED))
    assert set(hub.model(REPO).branches) == {"main", "iter-0"}


def test_if_the_start_is_the_best_main_says_so_and_has_no_worse_weights(hub: LocalHub, tmp_path: Path) -> None:
    """Weights left there by an earlier best model are deleted."""
    run = played(tmp_path / "run", *THREE, best="iteration-0", journal=DECIDED)
    push(run)
    (tmp_path / "run" / "best.json").write_text(json.dumps({"stage": "start"}), encoding="utf-8")
    assert are_of(push(run), ("start", "main"))
    assert sorted(hub.model(REPO).branches["main"]) == [".gitattributes", "README.md"]
    assert "No iteration has improved on the start" in hub.model(REPO).branches["main"]["README.md"].decode()
    assert push(run) == []


def test_a_start_that_the_run_made_is_pushed_with_its_weights(hub: LocalHub, tmp_path: Path) -> None:
    run = played(
        tmp_path / "run", *THREE, best="start", journal=DECIDED, models=["start", "iteration-0", "iteration-1"]
    )
    push(run)
    branches = hub.model(REPO).branches
    assert branches["main"]["model.safetensors"] == branches["start"]["model.safetensors"] == b"weights of start"
    assert "opponent | its revision" in branches["iter-0"]["README.md"].decode()
    assert "| iteration 0 | `iter-0` | start | `start` |" in branches["iter-0"]["README.md"].decode()


def test_a_model_that_has_gone_is_passed_over(hub: LocalHub, tmp_path: Path) -> None:
    """`keep_iterations` may have deleted it before the Hub was reachable again."""
    run = played(tmp_path / "run", *THREE, best="iteration-0", journal=DECIDED, models=["iteration-0"])
    push(run)
    assert set(hub.model(REPO).branches) == {"main", "iter-0"}


def test_a_model_that_was_trained_anew_is_pushed_anew(hub: LocalHub, tmp_path: Path) -> None:
    run = played(tmp_path / "run", *THREE, best="iteration-0", journal=DECIDED)
    push(run)
    (tmp_path / "run" / "iteration-1" / "model" / "model.safetensors").write_bytes(b"other weights")
    run.journal.append("train", "iteration-1", seconds=1.0, steps=3)
    assert any(names(line, "iteration-1:", REPO, "iter-1") for line in push(run))
    assert hub.model(REPO).branches["iter-1"]["model.safetensors"] == b"other weights"


def test_what_could_be_pushed_before_a_failure_stays_known(hub: LocalHub, tmp_path: Path) -> None:
    run = played(tmp_path / "run", *THREE, best="iteration-0", journal=DECIDED)
    hub.fail("/commit/iter-1", times=-1)
    with refused(HubError, "iter-1", REPO, 500):
        push(run)
    hub.faults.clear()
    assert are_of(push(run), ("iteration-1", "iter-1"), ("iteration-0", "main"))


def test_an_iteration_that_is_not_finished_is_on_no_card(hub: LocalHub, tmp_path: Path) -> None:
    """The card only changes once an iteration is finished."""
    run = played(tmp_path / "run", *THREE, best="iteration-0", journal=DECIDED)
    push(run, upto=0)
    assert "iteration 1" not in hub.model(REPO).branches["main"]["README.md"].decode()
    run.journal.append("generate", "iteration-2", seconds=5.0, tokens=3)
    assert push(run, upto=0) == []


def test_licences_are_those_of_what_the_run_began_with(hub: LocalHub, tmp_path: Path) -> None:
    """They are looked up once, and kept in the journal for cards that are written offline."""
    Hub().create("org/base", "model", None)
    hub.model("org/base").license = "apache-2.0"
    prepare = {
        "phase": "prepare",
        "dataset": "d0",
        "stage": "data",
        "time": 1.0,
        "origins": {"model": {"name": "org/base", "on_hub": True}},
    }
    run = played(tmp_path / "run", *THREE, best="iteration-0", journal=[prepare, *DECIDED])
    push(run)
    card = ModelCard(hub.model(REPO).branches["main"]["README.md"].decode())
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "org/base")
    assert hub.count("GET /api/models/org/base$") == 1
    push(run)
    assert hub.count("GET /api/models/org/base$") == 1


def test_an_adapters_base_is_no_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"adapter")
    for base, target, expected in (
        (str(tmp_path), ("org/base", None), {"base_model_name_or_path": "org/base"}),
        (str(tmp_path), ("me/run", "start"), {"base_model_name_or_path": "me/run", "revision": "start"}),
        ("/gone/folder/mine", None, {"base_model_name_or_path": "mine"}),
        ("org/base", ("other/base", None), {"base_model_name_or_path": "org/base"}),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}), encoding="utf-8")
        content = model_files(tmp_path, target)["adapter_config.json"]
        assert isinstance(content, bytes)
        assert json.loads(content) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"hub_model_id": "org/mine"}, ("org/mine", None)),
        ({"hub_model_id": "mine", "push_generations": True}, (f"{USER}/mine", f"{USER}/mine-pairs")),
        ({"push_generations": True, "hub_dataset_id": "org/pairs"}, (f"{USER}/run-1", "org/pairs")),
    ],
)
def test_names_are_as_set_or_those_of_account_and_directory(hub, tmp_path, settings, expected) -> None:
    run = played(tmp_path / "run 1", *THREE, best="start", journal=DECIDED, models=[])
    run.args.hub_model_id = settings.pop("hub_model_id", None)
    for name, value in settings.items():
        setattr(run.play, name, value)
    found = targets_of(run, Hub())
    assert (found.model, found.dataset) == expected
