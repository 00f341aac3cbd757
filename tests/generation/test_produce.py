"""Prompts are answered in fixed micro-batches: by one process or two, interrupted or not, with the same result."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tiny
from datasets import Dataset

from spin_trl.errors import GenerationsError
from spin_trl.generation.engine import Response, Sampling
from spin_trl.generation.produce import generate, micro_batches
from spin_trl.generation.store import Generations, GenerationStore

SAMPLING = Sampling(1.0, 1.0, 0, max_new_tokens=8, max_length=None, num_generations=2, batch_size=4, seed=0)
NAMES = {"iteration": 0, "dataset_digest": "d", "template_digest": "t", "model_digest": "m", "disable_progress": True}

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import tiny, torch
from datasets import Dataset
from accelerate import PartialState
from spin_trl.generation.engine import Sampling
from spin_trl.generation.produce import generate
from spin_trl.generation.store import GenerationStore
from spin_trl.generation.transformers import TransformersEngine

torch.set_num_threads(1)
state = PartialState(cpu=True)
class Slow(TransformersEngine):
    def generate(self, *args):
        time.sleep({pause})
        return super().generate(*args)
rows = Dataset.from_dict({{"key": [str(i) for i in range(30)], "prompt_ids": [[5 + i] * (1 + i % 7) for i in range(30)]}})
sampling = Sampling(1.0, 1.0, 0, 8, None, 2, 4, 0)
generate(Slow(tiny.model("llama"), [1], 0), rows, GenerationStore({folder!r}), sampling, iteration=0,
         dataset_digest="d", template_digest="t", model_digest="m", disable_progress=True)
print("processes", state.num_processes, "backend", state.backend)
"""


def rows(count: int = 30) -> Dataset:
    return Dataset.from_dict(
        {"key": [str(i) for i in range(count)], "prompt_ids": [[5 + i] * (1 + i % 7) for i in range(count)]}
    )


def launch(tmp_path: Path, folder: Path, *, processes: int = 1, pause: float = 0.0) -> subprocess.Popen:
    script = tmp_path / f"{folder.name}.py"
    tests = str(Path(tiny.__file__).parent)
    script.write_text(textwrap.dedent(SCRIPT.format(tests=tests, pause=pause, folder=str(folder))))
    command = [sys.executable, str(script)]
    if processes > 1:
        # accelerate's own option for CPUs starts one process; this one starts as many as asked, and gloo connects them.
        options = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
        options += ["--dynamo_backend", "no", "--main_process_port", "0"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Counting:
    """An engine that answers with the prompt's first token and counts what it is asked."""

    name = "counting"

    def __init__(self, fail_after: int | None = None):
        self.calls: list[tuple[list[list[int]], int]] = []
        self.fail_after = fail_after

    def generate(self, prompts, sampling, seed):
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        self.calls.append(([list(prompt) for prompt in prompts], seed))
        return [Response([prompt[0], seed % 1000], "eos") for prompt in prompts]


def test_every_response_is_in_one_micro_batch_and_similar_lengths_are_together():
    lengths = [7, 1, 3, 3, 9, 2]
    batches = micro_batches(lengths, num_generations=2, batch_size=4)
    tasks = [task for batch in batches for task in batch]
    assert sorted((task.row, task.sample) for task in tasks) == [
        (row, sample) for row in range(6) for sample in range(2)
    ]
    assert [[lengths[task.row] for task in batch] for batch in batches] == [[1, 1, 2, 2], [3, 3, 3, 3], [7, 7, 9, 9]]


def test_every_prompt_gets_every_sample(tmp_path):
    store = GenerationStore(tmp_path / "store")
    generate(Counting(), rows(), store, SAMPLING, **NAMES)
    generations = Generations.load({0: store})
    assert set(generations) == {(str(key), 0, sample) for key in range(30) for sample in range(2)}
    assert all(ids[0] == 5 + int(key) for (key, _, _), ids in generations.items())


def test_an_interrupt_keeps_the_finished_shards_and_only_the_rest_is_made(tmp_path):
    whole, interrupted = GenerationStore(tmp_path / "whole"), GenerationStore(tmp_path / "interrupted")
    undisturbed = Counting()
    generate(undisturbed, rows(), whole, SAMPLING, **NAMES)
    with pytest.raises(KeyboardInterrupt):
        generate(Counting(fail_after=6), rows(), interrupted, SAMPLING, **NAMES)
    kept = 15 - len(interrupted.missing_shards())
    assert kept == 6
    rest = Counting()
    generate(rest, rows(), interrupted, SAMPLING, **NAMES)
    assert len(rest.calls) == 15 - kept
    assert Generations.load({0: interrupted}).digest == Generations.load({0: whole}).digest
    nothing = Counting(fail_after=0)
    generate(nothing, rows(), interrupted, SAMPLING, **NAMES)
    assert nothing.calls == []


def test_another_iteration_has_other_seeds(tmp_path):
    engines = [Counting(), Counting()]
    for iteration, engine in enumerate(engines):
        generate(
            engine, rows(), GenerationStore(tmp_path / str(iteration)), SAMPLING, **{**NAMES, "iteration": iteration}
        )
    seeds = [{seed for _, seed in engine.calls} for engine in engines]
    assert len(seeds[0]) == len(engines[0].calls)
    assert not seeds[0] & seeds[1]


def test_a_store_of_another_model_is_not_filled_up(tmp_path):
    store = GenerationStore(tmp_path / "store")
    generate(Counting(), rows(), store, SAMPLING, **NAMES)
    with pytest.raises(GenerationsError, match="another model"):
        generate(Counting(), rows(), store, SAMPLING, **{**NAMES, "model_digest": "other"})


def test_two_processes_make_what_one_makes_and_so_does_a_run_that_was_killed(tmp_path):
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    alone = launch(tmp_path, one)
    assert alone.wait(180) == 0, alone.stderr.read()
    together = launch(tmp_path, two, processes=2)
    output, errors = together.communicate(timeout=240)
    assert together.returncode == 0, errors
    assert output.count("processes 2 backend gloo") == 2
    victim = launch(tmp_path, killed, pause=0.2)
    deadline = time.monotonic() + 120
    while len(list(killed.glob("shard-*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait(60)
    before = {path.name: path.read_bytes() for path in killed.glob("shard-*.parquet")}
    assert 3 <= len(before) < 15
    again = launch(tmp_path, killed)
    assert again.wait(180) == 0, again.stderr.read()
    digests = {Generations.load({0: GenerationStore(folder)}).digest for folder in (one, two, killed)}
    assert len(digests) == 1
    # What was finished was not made twice.
    assert all((killed / name).read_bytes() == content for name, content in before.items())
