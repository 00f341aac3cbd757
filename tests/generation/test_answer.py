"""Prompts are answered in fixed micro-batches, with the same result in one process or two, interrupted or not."""

import dataclasses
import errno
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

import tiny
from messages import refused
from spin_trl.errors import GenerationsError
from spin_trl.generation.answer import Asked, generate
from spin_trl.generation.completions.failures import NoEndpointError
from spin_trl.generation.engine import Response, Sampling, UnansweredError
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore

SAMPLING = Sampling(1.0, 1.0, 0, max_new_tokens=8, max_length=None, num_generations=2, batch_size=4, seed=0)
NAMES = {"asked": Asked("d", "t", "m"), "iteration": 0, "disable_progress": True}

SCRIPT = """
import os, sys, time
sys.path.insert(0, {tests!r})
import tiny, torch
from datasets import Dataset
from accelerate import PartialState
from spin_trl.generation.engine import Sampling
from spin_trl.generation.answer import Asked, generate
from spin_trl.generation.store import GenerationStore
from spin_trl.generation.engines.transformers import TransformersEngine

torch.set_num_threads(1)
state = PartialState(cpu=True)
calls = []
class Slow(TransformersEngine):
    def answer(self, *args):
        time.sleep({pause})
        calls.append(args)
        return super().answer(*args)
rows = Dataset.from_dict({{"key": [str(i) for i in range(30)], "prompt_ids": [[5 + i] * (1 + i % 7) for i in range(30)]}})
sampling = Sampling(1.0, 1.0, 0, 8, None, 2, 4, 0)
generate(Slow(tiny.model("llama"), [1], 0), rows, GenerationStore({folder!r}), sampling, iteration=0,
         asked=Asked("d", "t", "m"), disable_progress=True)
line = f"process {{state.process_index}} of {{state.num_processes}} on {{state.backend}}: {{len(calls)}} micro-batches"
os.write(1, (line + chr(10)).encode())  # at once: the processes share a pipe
"""


def rows(count: int = 30) -> Dataset:
    return Dataset.from_dict(
        {"key": [str(i) for i in range(count)], "prompt_ids": [[5 + i] * (1 + i % 7) for i in range(count)]}
    )


def launch(tmp_path: Path, folder: Path, *, processes: int = 1, pause: float = 0.0) -> subprocess.Popen:
    script = tmp_path / f"{folder.name}.py"
    tests = str(Path(tiny.__file__).parent)
    script.write_text(textwrap.dedent(SCRIPT.format(tests=tests, pause=pause, folder=str(folder))), encoding="utf-8")
    command = [sys.executable, str(script)]
    if processes > 1:
        # accelerate's own option for CPUs starts one process; this one starts as many as requested, connected by gloo.
        options = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
        options += ["--dynamo_backend", "no", "--main_process_port", "0"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )


class Counting:
    """Engine that answers with the prompt's first token and counts its calls."""

    name, version, repeats = "counting", "1.0", True

    def __init__(self, fail_after: int | None = None):
        self.calls: list[tuple[list[list[int]], int]] = []
        self.fail_after = fail_after

    def generate(self, batches, sampling):
        for batch in batches:
            if self.fail_after is not None and len(self.calls) >= self.fail_after:
                raise KeyboardInterrupt
            self.calls.append(([list(prompt) for prompt in batch.prompts], batch.seed))
            yield batch.number, [Response([prompt[0], batch.seed % 1000], "eos") for prompt in batch.prompts]


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


class Unordered(Counting):
    """Engine that is asked for many prompts at a time and finishes them in reverse."""

    repeats = False

    def __init__(self, in_flight: int, fail_after: int | None = None):
        super().__init__(fail_after)
        self.in_flight = in_flight

    def generate(self, batches, sampling):
        batches = iter(batches)
        while taken := list(itertools.islice(batches, self.in_flight)):
            yield from super().generate(reversed(taken), sampling)


def test_an_engine_that_schedules_itself_gets_the_samples_of_one_prompt_together(tmp_path):
    store, engine = GenerationStore(tmp_path / "store"), Unordered(7)
    generate(engine, rows(), store, SAMPLING, **NAMES)
    assert all(len(prompts) == 2 and prompts[0] == prompts[1] for prompts, _ in engine.calls)
    assert len(engine.calls) == len({seed for _, seed in engine.calls}) == 30
    generations = Generations.load({0: store})
    assert set(generations) == {(str(key), 0, sample) for key in range(30) for sample in range(2)}
    assert all(ids[0] == 5 + int(key) for (key, _, _), ids in generations.items())
    assert store.manifest()["sampling"]["batch_size"] == 2


def test_the_manifest_names_the_engine_its_version_and_whether_it_repeats(tmp_path):
    for engine in (Counting(), Unordered(7)):
        store = GenerationStore(tmp_path / type(engine).__name__)
        generate(engine, rows(), store, SAMPLING, **NAMES)
        found = [store.manifest()[name] for name in ("engine", "engine_version", "repeats")]
        assert found == ["counting", "1.0", engine.repeats]


def test_the_manifest_says_that_the_base_was_not_quantised(tmp_path):
    for told in (True, False):
        store = GenerationStore(tmp_path / str(told))
        generate(Unordered(7), rows(), store, SAMPLING, **NAMES, unquantised_base=told)
        assert store.manifest().get("unquantised_base") is (True if told else None)


def test_what_such_an_engine_has_finished_is_never_asked_for_again(tmp_path, monkeypatch):
    """Its shards may all be incomplete when the run is interrupted."""
    monkeypatch.setattr("spin_trl.generation.work.MIN_SHARDS", 3)
    store, first, second = GenerationStore(tmp_path / "store"), Unordered(30, fail_after=17), Unordered(30)
    with pytest.raises(KeyboardInterrupt):
        generate(first, rows(), store, SAMPLING, **NAMES)
    assert len(first.calls) == 17
    assert len(store.missing_shards()) == 2  # of three shards, the last is complete and the second half done
    told = []
    generate(second, rows(), store, SAMPLING, **NAMES, on_progress=lambda *done: told.append(done))
    asked = [[tuple(prompts[0]) for prompts, _ in engine.calls] for engine in (first, second)]
    assert len(asked[1]) == 13
    assert not {*asked[0]} & {*asked[1]}
    assert told[0] == (34, 60, 0)
    assert told[-1] == (60, 60, 52)
    generations = Generations.load({0: store})
    assert all(ids[0] == 5 + int(key) for (key, _, _), ids in generations.items())
    assert sorted(path.suffix for path in store.folder.iterdir()) == [".json", ".jsonl", *[".parquet"] * 3]


def test_prompts_that_an_engine_has_not_answered_are_named_by_their_rows(tmp_path):
    """What it has finished is kept, and only the others are asked for again."""

    class Forgetful:
        name, version, repeats, asked = "forgetful", "1.0", False, []

        def generate(self, batches, sampling):
            batches = list(batches)
            self.asked.append(len(batches))
            lost = [batch.number for batch in batches if batch.prompts[0] in ([5], [6, 6]) and len(self.asked) == 1]
            for batch in batches:
                if batch.number not in lost:
                    yield batch.number, [Response([batch.prompts[0][0]], "eos") for _ in batch.prompts]
            if lost:
                raise UnansweredError("OutOfMemory.", lost)

    engine, store = Forgetful(), GenerationStore(tmp_path / "store")
    with refused(UnansweredError, "OutOfMemory", "0, 1"):
        generate(engine, rows(4), store, SAMPLING, **NAMES)
    generate(engine, rows(4), store, SAMPLING, **NAMES)
    assert engine.asked == [4, 2]
    assert len(Generations.load({0: store})) == 8


def test_servers_that_are_gone_say_how_to_go_on(tmp_path):
    """What they had finished is kept, and the error is still the one that names them."""

    class Leaving(Counting):
        repeats = False

        def generate(self, batches, sampling):
            for batch in list(batches)[:2]:
                yield batch.number, [Response([3], "eos") for _ in batch.prompts]
            raise NoEndpointError("No endpoint can be used:\n- http://gpu-1: refused", {"http://gpu-1": "refused"})

    store = GenerationStore(tmp_path / "store")
    with refused(NoEndpointError, "gpu-1", "kept", "same command") as caught:
        generate(Leaving(), rows(4), store, SAMPLING, **NAMES)
    assert caught.value.failures == {"http://gpu-1": "refused"}
    assert len(store.missing_shards()) == store.manifest()["num_shards"] - 2


def test_another_iteration_has_other_seeds(tmp_path):
    engines = [Counting(), Counting()]
    for iteration, engine in enumerate(engines):
        generate(
            engine, rows(), GenerationStore(tmp_path / str(iteration)), SAMPLING, **{**NAMES, "iteration": iteration}
        )
    seeds = [{seed for _, seed in engine.calls} for engine in engines]
    assert len(seeds[0]) == len(engines[0].calls)
    assert not seeds[0] & seeds[1]


def test_every_micro_batch_has_its_own_seed_also_within_a_shard(tmp_path):
    """128 micro-batches of one answer make 64 shards of two; no two answers share random numbers."""
    engine, store = Counting(), GenerationStore(tmp_path / "store")
    generate(engine, rows(64), store, dataclasses.replace(SAMPLING, batch_size=1), **NAMES)
    assert store.manifest()["num_shards"] == 64
    assert len({seed for _, seed in engine.calls}) == len(engine.calls) == 128


def test_a_store_of_another_model_is_not_filled_up(tmp_path):
    store = GenerationStore(tmp_path / "store")
    generate(Counting(), rows(), store, SAMPLING, **NAMES)
    with refused(GenerationsError, store.folder, "model:", "'other'"):
        generate(Counting(), rows(), store, SAMPLING, **{**NAMES, "asked": Asked("d", "t", "other")})


def in_this_process(folder: Path) -> GenerationStore:
    """Return the output of `SCRIPT`, without the time that a process takes to start."""
    store, sampling = GenerationStore(folder), Sampling(1.0, 1.0, 0, 8, None, 2, 4, 0)
    generate(TransformersEngine(tiny.model("llama"), [1], 0), rows(), store, sampling, **NAMES)
    return store


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path):
    """`accelerate launch` with two gloo processes on the CPU gives the same tokens, and each process generates its share."""
    launched = launch(tmp_path, tmp_path / "two", processes=2)
    output, errors = launched.communicate(timeout=240)
    assert launched.returncode == 0, errors
    assert sorted(output.splitlines()) == [
        "process 0 of 2 on gloo: 8 micro-batches",
        "process 1 of 2 on gloo: 7 micro-batches",
    ]
    one, two = in_this_process(tmp_path / "one"), GenerationStore(tmp_path / "two")
    assert two.manifest() == one.manifest()
    assert two.table().equals(one.table())


@pytest.mark.slow
def test_a_run_that_was_killed_loses_only_the_shard_in_the_making(tmp_path):
    """After a SIGKILL, the second call generates the rest, and the result equals an undisturbed run's."""
    killed, whole = tmp_path / "killed", in_this_process(tmp_path / "whole")
    victim = launch(tmp_path, killed, pause=0.2)
    deadline = time.monotonic() + 120
    while len(list(killed.glob("shard-*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL
    before = {path.name: path.read_bytes() for path in killed.glob("shard-*.parquet")}
    assert 3 <= len(before) < 15
    again = in_this_process(killed)
    assert again.table().equals(whole.table())
    # Finished work was not repeated.
    assert all((killed / name).read_bytes() == content for name, content in before.items())


def test_a_full_disk_keeps_the_finished_shards(tmp_path, monkeypatch):
    """Nothing half-written remains, and the same call resumes once there is room again."""
    store, write, written = GenerationStore(tmp_path / "store"), pq.write_table, []

    def until_full(table, file):
        if len(written) == 4:
            file.write(b"half a shard")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(file)
        write(table, file)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", until_full)
        with refused(OSError, f"Errno {errno.ENOSPC}"):
            generate(Counting(), rows(), store, SAMPLING, **NAMES)
    names = {path.name for path in store.folder.iterdir()}
    assert names == {"generations.json", "checksums.jsonl", *(f"shard-{number:05d}.parquet" for number in range(4))}
    rest = Counting()
    generate(rest, rows(), store, SAMPLING, **NAMES)
    assert len(rest.calls) == 15 - 4
    assert store.is_complete()


def test_the_engine_is_given_exactly_the_prompts_tokens(tmp_path):
    """The engine gets the tokens that precede the real responses; nothing is rendered or tokenised again."""
    engine = Counting()
    generate(engine, rows(), GenerationStore(tmp_path / "store"), SAMPLING, **NAMES)
    given = sorted(prompt for prompts, _ in engine.calls for prompt in prompts)
    assert given == sorted(2 * rows()["prompt_ids"][:])


def test_answers_go_to_the_rows_that_they_answer(tmp_path):
    """This holds for any micro-batch size and any order of the rows."""
    for batch_size in (1, 7, 64):
        for data in (rows(), rows().shuffle(seed=2)):
            store = GenerationStore(tmp_path / f"{batch_size}-{data['key'][0]}")
            generate(Counting(), data, store, dataclasses.replace(SAMPLING, batch_size=batch_size), **NAMES)
            found = Generations.load({0: store})
            assert all(found[key, 0, sample][0] == 5 + int(key) for key in data["key"] for sample in range(2))


def test_an_error_in_storing_closes_the_engine_at_once(tmp_path, monkeypatch):
    """An engine that works on requests must not go on while the error is being reported."""
    closed = []

    class Closing(Counting):
        def generate(self, batches, sampling):
            try:
                yield from super().generate(batches, sampling)
            finally:
                closed.append(True)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = GenerationStore(tmp_path / "store")
    monkeypatch.setattr(store, "write_shard", full)
    with refused(OSError, errno.ENOSPC) as error:
        generate(Closing(), rows(), store, SAMPLING, **NAMES)
    assert error.value.__traceback__ is not None
    assert closed == [True]
