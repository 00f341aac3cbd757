"""A training checkpoint is valid if its manifest was written after all other files."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

import tiny
from messages import logged, names, refused
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.files import Checksum
from spin_trl.run.checkpoint import (
    CHECKPOINT_MANIFEST,
    is_of_a_model,
    kept_files_of_checkpoint,
    latest,
    newest_complete,
    write_manifest,
)


def checkpoint(folder: Path, step: int, num_processes: int = 1) -> Path:
    """Write a complete checkpoint with two files, one of them in a subfolder."""
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights" * step)
    (path / "inner" / "rng_state.pth").write_bytes(b"state")
    write_manifest(path, num_processes)
    return path


def test_the_newest_is_found_by_its_step_not_by_its_name(tmp_path: Path) -> None:
    """Step 10 comes after step 9, and folders that are not checkpoints are ignored."""
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    for name in ("checkpoint-best", "checkpoint-", "runs", "checkpoint-11.tmp"):
        (tmp_path / name).mkdir()
    assert latest(tmp_path, 1) == newest


def test_there_may_be_none(tmp_path: Path) -> None:
    """An empty folder, or one that does not exist, has nothing to resume."""
    assert latest(tmp_path, 1) is None
    assert latest(tmp_path / "missing", 1) is None


def _without_manifest(path: Path) -> None:
    (path / CHECKPOINT_MANIFEST).unlink()


def _cut_manifest(path: Path) -> None:
    whole = (path / CHECKPOINT_MANIFEST).read_bytes()
    (path / CHECKPOINT_MANIFEST).write_bytes(whole[: len(whole) // 2])


def _without_a_file(path: Path) -> None:
    (path / "inner" / "rng_state.pth").unlink()


def _cut_file(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"wei")


def _manifest_of_something_else(path: Path) -> None:
    (path / CHECKPOINT_MANIFEST).write_text(json.dumps({"files": {}}), encoding="utf-8")


def _manifest_of_a_list(path: Path) -> None:
    (path / CHECKPOINT_MANIFEST).write_text("[]", encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        _without_manifest,
        _cut_manifest,
        _without_a_file,
        _cut_file,
        _manifest_of_something_else,
        _manifest_of_a_list,
    ],
)
def test_a_half_written_one_is_passed_over(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An incomplete checkpoint is skipped with a warning, and the previous one is used."""
    older = checkpoint(tmp_path, 4)
    damage(checkpoint(tmp_path, 5))
    assert latest(tmp_path, 1) == older
    assert names(caplog.text, "checkpoint-5")
    assert not names(caplog.text, "processes")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "inner/rng_state.pth"])
def test_one_that_is_damaged_is_passed_over(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A single bit is enough. The previous one is used; if that is damaged too, there is none, and the log says so."""
    older, newer = checkpoint(tmp_path, 4), checkpoint(tmp_path, 5)
    assert latest(tmp_path, 1) == newer
    _flip(newer / name)
    assert latest(tmp_path, 1) == older
    logged(caplog, str(newer), name)
    _flip(older / name)
    assert latest(tmp_path, 1) is None
    logged(caplog, tmp_path)


def test_a_manifest_without_checksums_counts(tmp_path: Path) -> None:
    """Version 0.1.0 recorded only sizes."""
    path = checkpoint(tmp_path, 4)
    manifest = json.loads((path / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
    del manifest["sha256"]
    (path / CHECKPOINT_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert latest(tmp_path, 1) == path


def test_another_number_of_processes_starts_from_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Random states and skipped batches depend on the number of processes; the log says that training starts over."""
    checkpoint(tmp_path, 5, num_processes=2)
    assert latest(tmp_path, 2) is not None
    assert latest(tmp_path, 1) is None
    assert names(caplog.text, "checkpoint-5", "2 processes", 1)


def test_the_manifest_names_every_file_and_its_size(tmp_path: Path) -> None:
    """A manifest that is written again does not list itself."""
    path = checkpoint(tmp_path, 3)
    write_manifest(path, 4)
    assert json.loads((path / CHECKPOINT_MANIFEST).read_text(encoding="utf-8")) == {
        "num_processes": 4,
        "files": {"inner/rng_state.pth": 5, "model.safetensors": 21},
        "sha256": {
            "inner/rng_state.pth": hashlib.sha256(b"state").hexdigest(),
            "model.safetensors": hashlib.sha256(b"weights" * 3).hexdigest(),
        },
    }


RESUMED_FROM = {
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "merges.txt",
    "spiece.model",
    "README.md",
    "mine/adapter_model.safetensors",
    "mine/adapter_config.json",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
    "rng_state_11.pth",
    "trainer_state.json",
    "pytorch_model_fsdp.bin",
    "pytorch_model_fsdp_0/.metadata",
    "pytorch_model_fsdp_0/__0_0.distcp",
    "optimizer_0/__1_0.distcp",
    "latest",
    "zero_to_fp32.py",
    "global_step3/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
}
"""Files that Trainer writes on one process and on several, with FSDP, and with DeepSpeed."""

NOBODYS = {
    "training_args.bin",
    "inner/training_args.bin",
    "pytorch_model.bin",
    "evil.pkl",
    "mine.pt",
    "ema.pth",
    "latest.bin",
}
"""Files that training is not resumed from."""


def test_only_what_training_is_resumed_from_is_kept(tmp_path: Path) -> None:
    """Files are selected by a list of names, regardless of others; links are not followed."""
    for name in RESUMED_FROM | NOBODYS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "linked.json").symlink_to(tmp_path / "config.json")
    write_manifest(tmp_path, 1)
    kept = {path.relative_to(tmp_path).as_posix() for path in kept_files_of_checkpoint(tmp_path)}
    assert kept == RESUMED_FROM | {CHECKPOINT_MANIFEST}
    assert set(json.loads((tmp_path / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))["files"]) == RESUMED_FROM
    assert not any(
        map(is_of_a_model, map(Path, ("a.bin", "a.pt", "a.pth", "a.pkl", "a.pickle", "a.ckpt", "a.npy", "a")))
    )


def test_an_earlier_checkpoint_counts_without_the_arguments_that_it_lists(tmp_path: Path) -> None:
    """Version 0.1.0 saved the pickle of Trainer's arguments and listed its size."""
    path = checkpoint(tmp_path, 3)
    manifest = json.loads((path / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
    manifest["files"]["training_args.bin"] = 6000
    (path / CHECKPOINT_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert latest(tmp_path, 1) == newest_complete(tmp_path) == path
    (path / "training_args.bin").write_bytes(b"another size")
    assert latest(tmp_path, 1) == path
    assert path / "training_args.bin" not in set(kept_files_of_checkpoint(path))


class Hostile:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._trace),)


def trained(folder: Path, steps: int, resume: str | bool | None = None, **settings: Any) -> SPINTrainer:
    """Return a trainer that has saved a checkpoint after every step."""
    args = SPINConfig(
        str(folder),
        max_length=64,
        use_cpu=True,
        bf16=False,
        max_steps=steps,
        max_new_tokens=4,
        per_device_train_batch_size=2,
        generation_batch_size=4,
        save_strategy="steps",
        save_steps=1,
        report_to="none",
        disable_tqdm=True,
        lr_scheduler_type="constant",
        learning_rate=1e-2,
        **settings,
    )
    adapter = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM") if folder.name == "adapter" else None
    trainer = SPINTrainer(
        tiny.model(), args=args, train_dataset=tiny.sft(4), processing_class=tiny.tokenizer(), peft_config=adapter
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("name", ["full", "adapter"])
def test_no_model_and_no_checkpoint_holds_trainers_arguments(name: str, tmp_path: Path) -> None:
    """This holds for every caller of `save_model`. A model's folder has no pickle; a checkpoint only Trainer's states."""
    trainer = trained(tmp_path / name, 2)
    trainer.save_model(str(tmp_path / "model"))
    trainer.save_model()
    assert all(map(is_of_a_model, (tmp_path / "model").iterdir()))
    assert (tmp_path / name / "config.json").exists() != (name == "adapter")
    assert not list(tmp_path.rglob("training_args.bin"))
    pickles = {path.name for path in (tmp_path / name / "checkpoint-2").rglob("*") if not is_of_a_model(path)}
    assert pickles == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert set(kept_files_of_checkpoint(tmp_path / name / "checkpoint-2")) == {
        path for path in (tmp_path / name / "checkpoint-2").rglob("*") if path.is_file()
    }


def test_a_push_while_training_has_no_arguments_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer's own push would write them a second time, into the folder that it uploads."""
    trainer = trained(tmp_path / "full", 1)
    uploaded: list[set[str]] = []

    class Api:
        def upload_folder(self, *, folder_path: str, **more: Any) -> None:
            uploaded.append({path.name for path in Path(folder_path).iterdir()})

    monkeypatch.setattr("transformers.trainer.hf_api", Api)
    trainer.hub_model_id, trainer.push_in_progress = "me/model", None
    trainer._push_from_checkpoint(str(tmp_path / "full" / "checkpoint-1"))
    assert len(uploaded) == 1
    assert "model.safetensors" in uploaded[0]
    assert "training_args.bin" not in uploaded[0]
    saved = torch.save
    assert saved.__module__ == "torch.serialization", "saving is restored"


@pytest.mark.parametrize("name", ["full", "adapter"])
def test_checksums_are_taken_while_a_checkpoint_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The large files are not read again, and match their checksums."""
    read: list[Path] = []
    read_again = Checksum.of
    monkeypatch.setattr(Checksum, "of", lambda path: read.append(path) or read_again(path))
    trained(tmp_path / name, 1)
    folder = tmp_path / name / "checkpoint-1"
    large = {"optimizer.pt", "scheduler.pt", "rng_state.pth", f"{'adapter_' * (name == 'adapter')}model.safetensors"}
    found = json.loads((folder / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))["sha256"]
    assert large <= found.keys()
    assert not large & {path.name for path in read}
    assert {one: hashlib.sha256((folder / one).read_bytes()).hexdigest() for one in large} == {
        one: found[one] for one in large
    }


def test_a_trainer_passes_over_a_damaged_checkpoint(tmp_path: Path) -> None:
    """`resume_from_checkpoint=True` resumes from the newest intact one and reaches the same weights."""
    expected = trained(tmp_path / "whole", 2).model.state_dict()
    trained(tmp_path / "full", 2)
    _flip(tmp_path / "full" / "checkpoint-2" / "optimizer.pt")
    found = trained(tmp_path / "full", 2, resume=True)
    assert all(torch.equal(value, expected[name]) for name, value in found.model.state_dict().items())


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_was_tampered_with_runs_no_code(name: str, tmp_path: Path) -> None:
    """Anyone with write access to a backup could add a pickle that runs arbitrary code."""
    trained(tmp_path / "full", 1)
    folder = tmp_path / "full" / "checkpoint-1"
    torch.save(Hostile(tmp_path / "trace"), folder / name)
    with refused(pickle.UnpicklingError, "`weights_only`", "mkdir"):
        trained(tmp_path / "full", 2, resume=str(folder))
    assert not (tmp_path / "trace").exists()
    torch.load(folder / name, weights_only=False)
    assert (tmp_path / "trace").exists(), "unpickling would have run it"


def test_the_arguments_of_an_earlier_version_are_not_loaded(tmp_path: Path) -> None:
    """A file in their place is never read."""
    trained(tmp_path / "full", 1)
    folder = tmp_path / "full" / "checkpoint-1"
    torch.save(Hostile(tmp_path / "trace"), folder / "training_args.bin")
    assert trained(tmp_path / "full", 2, resume=str(folder)).state.global_step == 2
    assert not (tmp_path / "trace").exists()
