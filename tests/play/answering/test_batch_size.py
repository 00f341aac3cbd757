"""`generation_batch_size: auto` becomes a number once, which the run's recipe keeps."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tiny
from messages import names, refused
from runs import build, entry
from spin_trl import SPINConfig
from spin_trl.config.yaml_files import read_yaml
from spin_trl.errors import RunDirectoryError
from spin_trl.generation.batch_size import longest_rows
from spin_trl.generation.engine import Sampling
from spin_trl.plan.model import ModelSettings, PlannedModel
from spin_trl.plan.rehearsal import prefill
from spin_trl.play.answering import batch_size as module
from spin_trl.play.answering.batch_size import row_memory, settle_batch_size
from spin_trl.run.run import Run

GIB = 2**30


def settings(**values: Any) -> SPINConfig:
    return SPINConfig("out", use_cpu=True, bf16=False, **values)


@pytest.fixture
def auto(run: Run) -> Run:
    """Return a prepared run whose batch size is not settled."""
    run.directory.own("recipe.yaml").write_text("generation_batch_size: auto\nbeta: 0.5\n", encoding="utf-8")
    run.args.generation_batch_size = "auto"
    return run


def of_gpu(monkeypatch: pytest.MonkeyPatch, free: float) -> Any:
    """Return a model at hand that is said to be on a GPU with so much free memory."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), 80 * GIB))

    class AtHand:
        is_served = False

        def __call__(self) -> Any:
            return tiny.model(), SimpleNamespace(device=torch.device("cuda", 0), autocast=contextlib.nullcontext)

    return AtHand()


def frozen(run: Run) -> Any:
    return read_yaml(run.directory.recipe)


def test_the_number_follows_from_the_free_memory_and_is_frozen(
    auto: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is printed. Once it is there, less free memory changes nothing."""
    longest = longest_rows([auto.rows(), auto.rows(held_out=True)], Sampling.from_args(auto.args))
    need = row_memory(tiny.model(), contextlib.nullcontext, auto.args, *longest)
    row = max(need.at_prompt, need.at_end)
    settle_batch_size(auto, of_gpu(monkeypatch, (20 * row + need.fixed) / 0.9))
    assert auto.args.generation_batch_size == 16
    assert frozen(auto) == {"generation_batch_size": 16, "beta": 0.5}
    assert names(capsys.readouterr().out, "`generation_batch_size: auto`", 16)
    auto.args.generation_batch_size = "auto"  # the recipe of a run that goes on
    settle_batch_size(auto, of_gpu(monkeypatch, 2 * row))
    assert auto.args.generation_batch_size == 16
    assert capsys.readouterr().out == ""


def test_processes_agree_on_the_smallest(auto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gather_object", lambda own: [*own, 8, 32])
    settle_batch_size(auto, of_gpu(monkeypatch, GIB))
    assert auto.args.generation_batch_size == frozen(auto)["generation_batch_size"] == 8


def test_without_a_gpu_it_is_the_default(auto: Run) -> None:
    """An engine that schedules responses itself needs no number, so no model is loaded for one."""
    settle_batch_size(auto, SimpleNamespace(is_served=True))  # type: ignore[arg-type]
    assert auto.args.generation_batch_size == 64
    assert frozen(auto) == {"beta": 0.5}  # settings at their defaults are left out


def test_machines_that_share_a_run_do_not_compute_it(auto: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(RunDirectoryError, "`generation_batch_size: auto`", "--until generate"):
        settle_batch_size(auto, of_gpu(monkeypatch, GIB), is_alone=False)


def test_a_rows_memory_by_hand() -> None:
    """Keys and values of 2 layers with 2 heads of 16 in float32; sampling takes 20 bytes a logit, or 46 with filters."""
    model = tiny.model("llama")
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * head * 4 * 1000
    plain = row_memory(model, contextlib.nullcontext, settings(), 100, 1000)
    logits = 20 * config.vocab_size
    assert cache <= plain.at_end - logits <= 2 * cache  # with copies of one of few layers
    short = row_memory(model, contextlib.nullcontext, settings(), 5, 1000)
    assert short.at_end == pytest.approx(plain.at_end, rel=0.1)
    filtered = row_memory(model, contextlib.nullcontext, settings(top_k=5), 100, 1000)
    assert filtered.at_end - plain.at_end == (46 - 20) * config.vocab_size
    longer = row_memory(model, contextlib.nullcontext, settings(), 200, 1000)
    assert 2 * plain.at_prompt <= longer.at_prompt <= 2.5 * plain.at_prompt  # attention's mask is quadratic


def test_what_is_planned_is_what_is_measured() -> None:
    """`spin-trl plan` plays the same prompts on fake tensors, so it shows what a run would compute."""
    model = tiny.model("llama")
    measured = row_memory(model, contextlib.nullcontext, settings(), 64, 256)
    planned = PlannedModel(ModelSettings(model.config, torch.float32, None, None, False, "no"))
    one, two = (prefill(planned, rows, 64) for rows in (1, 2))
    assert two.bytes - one.bytes == pytest.approx(measured.at_prompt, rel=0.05)
    cache = one.kept / 64 * 256 * (1 + 1 / model.config.num_hidden_layers)
    assert cache + 20 * model.config.vocab_size == pytest.approx(measured.at_end, rel=0.1)


@pytest.mark.slow
def test_a_run_keeps_its_number_when_it_goes_on(llama_folder: Path) -> None:
    """On the CPU it is the default; the recipe may still say `auto`, and the responses belong to the number."""
    build(llama_folder, generation_batch_size="auto", num_iterations=1).run(until="generate")
    assert "generation_batch_size" not in read_yaml(Path("run/recipe.yaml"))
    build(llama_folder, generation_batch_size="auto", num_iterations=1).run()
    assert "generation_batch_size" not in read_yaml(Path("run/recipe.yaml"))
    manifest = json.loads(Path("run/iteration-0/generations/generations.json").read_text(encoding="utf-8"))
    assert manifest["sampling"]["batch_size"] == 64
    assert entry("evaluate", "iteration-0")
