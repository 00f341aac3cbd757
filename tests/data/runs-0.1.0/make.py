"""Creates the runs in this folder with the code of version 0.1.0, which is commit c388e83.

There are three kinds: full fine-tuning, LoRA, and a start from scratch. Each has a run that has finished, one that was
killed when iteration 1 had been generated, and one that was killed in iteration 1's training, at its third checkpoint.
`tests/test_earlier_runs.py` resumes them, and writes their reports and cards, with the current code.

Never regenerate them with newer code: their value is that they are old. A newer version gets its own folder. They were
created with the packages of `constraints.txt` by:

    git worktree add /tmp/0.1.0 c388e83
    PYTHONPATH=/tmp/0.1.0:/tmp/0.1.0/tests OMP_NUM_THREADS=1 python tests/data/runs-0.1.0/make.py tests/data/runs-0.1.0

Every path in a run is relative to the folder in which it was started, so that it can be resumed wherever it is
unpacked. `plot.png` is left out: it would be half of the bytes, and nothing reads it.
"""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

COMMIT = "c388e83"
PLAYED = 1_795_322_141
"""Time of that commit, and of every file in an archive."""

SETTINGS: dict[str, Any] = {
    "dataset_name": "train.jsonl",
    "run_dir": "run",
    "num_iterations": 2,
    "held_out_fraction": 0.3,
    "seed": 5,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "linear",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "generation_batch_size": 4,
    "max_length": 64,
    "max_new_tokens": 8,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
    "logging_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "report_to": "none",
    "stop_at_plateau": False,
}

KINDS: dict[str, dict[str, Any]] = {
    "full": {"model_name_or_path": "model"},
    "lora": {"model_name_or_path": "model", "use_peft": True, "lora_r": 2, "lora_target_modules": "all-linear"},
    "scratch": {
        "start_tokenizer": "char",
        "start_hidden_size": 8,
        "start_num_layers": 1,
        "start_num_heads": 2,
        "start_num_epochs": 4,
        "start_batch_size": 4,
        "start_learning_rate": 1e-2,
    },
}

SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,
}
"""Settings of the model that the first two kinds start from."""

POINTS = ("finished", "generated", "training")

ROWS = 16
CHECKPOINT = 3
"""Step of iteration 1 after whose checkpoint a training is killed."""


def make(kind: str, point: str, target: Path) -> None:
    """Play a run up to a point, in a separate process, and pack its folder into `target`."""
    import yaml
    from spin_trl.loop_config import StartConfig
    from spin_trl.play.start import build_tokenizer, texts_of
    from transformers import GenerationConfig

    import tiny

    rows = tiny.sft(ROWS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.write_jsonl(folder / "train.jsonl", rows)
        settings = {**SETTINGS, **KINDS[kind]}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        if "model_name_or_path" in settings:
            tokenizer = build_tokenizer(texts_of(rows), StartConfig(start_tokenizer="char"), SETTINGS["max_length"])
            of_tokenizer = {"vocab_size": len(tokenizer), "eos_token_id": 0, "pad_token_id": 0}
            model = tiny.model(**SIZES, **of_tokenizer)
            model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
            tiny.save(folder / "model", model, tokenizer)
        done = subprocess.run([sys.executable, __file__, "--play", point], cwd=folder, check=False)
        assert done.returncode == (0 if point == "finished" else -signal.SIGKILL)
        pack(folder, target)


def play(point: str) -> None:
    """Play the run of the current folder, and die at a point of iteration 1."""
    from spin_trl.play.journal import Journal
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from spin_trl.cli import main

    append = Journal.append

    def append_and_die(journal: Journal, phase: str, stage: str, **figures: Any) -> None:
        append(journal, phase, stage, **figures)
        if point == "generated" and (phase, stage) == ("generate", "iteration-1"):
            os.kill(os.getpid(), signal.SIGKILL)

    def die(*_: Any) -> None:
        if point == "training" and Path(f"run/iteration-1/train/checkpoint-{CHECKPOINT}/checkpoint.json").exists():
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = append_and_die  # type: ignore[method-assign]
    register_optimizer_step_pre_hook(die)
    sys.exit(main(["run", "recipe.yaml"]))


def pack(folder: Path, target: Path) -> None:
    """Write a folder as an archive that depends only on names and contents."""
    packed = io.BytesIO()
    with tarfile.TarFile(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            if path.name == "plot.png":
                continue
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.mtime = PLAYED
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
                archive.addfile(entry)
            elif path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size = path.stat().st_size
                archive.addfile(entry, io.BytesIO(path.read_bytes()))
    target.write_bytes(gzip.compress(packed.getvalue(), compresslevel=9, mtime=0))


def check_code() -> None:
    """Check that the playing code is that of the commit."""
    import spin_trl

    folder = Path(spin_trl.__file__).parents[1]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, check=True, encoding="utf-8")
    assert head.stdout.startswith(COMMIT), f"{folder} is at {head.stdout}"


if __name__ == "__main__":
    check_code()
    if sys.argv[1] == "--play":
        play(sys.argv[2])
    for kind in KINDS:
        for point in POINTS:
            make(kind, point, Path(sys.argv[1], f"{kind}-{point}.tar.gz"))
