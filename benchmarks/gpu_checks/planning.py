"""Compares predictions of `spin-trl plan` with the figures of earlier checks: peaks, and the rates behind the hours.

It computes nothing on the GPU. The plans are made from each recipe's configuration and data, as for a user. The measured
figures are read from the results of this run or an earlier one in the same folder, so it can also run on another machine.
"""

from __future__ import annotations

import yaml

import training
from spin_trl.generation.engine import Sampling
from spin_trl.plan import devices
from spin_trl.plan.costs import Hours
from spin_trl.plan.devices import Device, speed_of
from spin_trl.plan.memory import MemoryPlan
from spin_trl.plan.planning import Wishes, make_plan, planned_recipe
from spin_trl.plan.setup import Setup, Sharding
from spin_trl.plan.tokens import Lengths

from . import recipes, training_steps
from .check import Session, read

OFF = 0.3
"""Maximum relative deviation of a planned peak from the measured one."""


def run(session: Session) -> None:
    """Compare memory peaks, and the rates of training and generation."""
    device = _device(session)
    if device is None:
        session.not_here("peaks and rates", "no check has measured them on a GPU")
    for case in training_steps.cases(session.tiny):
        _training(session, case, device)
    for check, recipe in (("t4", recipes.T4), ("lora-3b", recipes.LORA_3B)):
        _recipe(session, check, recipe, device)


def _training(session: Session, case: training_steps.Case, device: Device | None) -> None:
    """Compare the peak and the step time of a case of the check `training`."""
    chosen, name = training_steps.options(case, session.tiny), case.name
    shape = training_steps.shape(session.tiny)
    folder = session.folder / name.replace(", ", "-").replace(" ", "-")
    folder.mkdir()
    training.save_config(shape, folder)
    lora = {"use_peft": True, "lora_r": 16, "lora_target_modules": ["all-linear"]} if case.tuning == "lora" else {}
    settings = {
        "model_name_or_path": str(folder / "model"), "output_dir": str(folder / "out"), "dataset_name": "made up",
        "dtype": "bfloat16", "bf16": True, "use_cpu": False, "activation_checkpointing": True,
        "per_device_train_batch_size": chosen.batch_size, "max_length": None, "max_new_tokens": 400,
        "learning_rate": 1e-5, "num_iterations": 1, **lora,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    recipe = planned_recipe(str(folder / "recipe.yaml"), [])
    pairs = training.pairs_of(case.data, chosen, shape["vocab_size"])
    rows = [(len(prompt), len(real)) for prompt, real, _ in pairs]
    lengths = Lengths(rows, len(rows), 0, Sampling.from_args(recipe.args), "made up")
    setup = Setup(recipe, Sharding(), on_gpu=True)
    memory = MemoryPlan(setup, lengths)
    planned = max(phase.total - _outside(phase.parts) for phase in memory.phases(only=("train", "opponent's pass")))
    measured = session.reported("training").get(f"{name}: ours: peak")
    _peak(session, f"{name}: peak", planned / 1e9, measured)
    step = session.reported("training").get(f"{name}: ours: a step")
    if device is None or step is None or session.tiny:
        return
    speed = speed_of(device, setup, memory.replica)
    iteration = Hours(memory).work(speed)[1]
    assumed, took = iteration.seconds["train"] / iteration.steps, step / 1000
    session.figure(f"{name}: a step, planned over measured", assumed / took)
    share = speed.flops / (device.tflops * 1e12)
    session.figure(f"{name}: share of the data sheet's products that is assumed", share)
    session.figure(f"{name}: share of them that is reached", share * assumed / took)


def _recipe(session: Session, check: str, recipe: recipes.Recipe, device: Device | None) -> None:
    """Compare the peak and the phase times of `t4` or `lora-3b`."""
    folder = session.folder / check
    folder.mkdir()
    recipes.build_data(folder, recipe, tiny=session.tiny)
    overrides = recipe.arguments(folder, tiny=False)
    plan = make_plan(recipe.name, overrides, Wishes(), on_gpu=True)
    planned = max(phase.total - _outside(phase.parts) for phase in plan.phases)
    _peak(session, f"{check}: peak", planned / 1e9, session.reported(check).get("peak"))
    measured = session.reported(check)
    if device is None or "a step" not in measured or session.tiny:
        return
    work = [one for one in plan.work(device) if one.stage != "start"]
    steps, last = sum(one.steps for one in work), work[-1]
    session.figure(f"{check}: a step, planned", sum(one.seconds["train"] for one in work) / steps, "s")
    planned_step = last.seconds["train"] / last.steps
    session.figure(f"{check}: a step, planned over measured", planned_step / measured["a step of the last iteration"])
    answering = sum(one.seconds["generate"] for one in work) / len(work)
    session.figure(f"{check}: generating, planned over measured", answering / measured["generating"])


def _peak(session: Session, name: str, planned: float, measured: float | None) -> None:
    session.figure(f"{name}, planned", planned, "GB")
    if measured is not None and not session.tiny:
        session.figure(f"{name}, planned over measured", planned / measured, at_least=1 - OFF, at_most=1 + OFF)


def _outside(parts: dict[str, int]) -> int:
    """Return the bytes that PyTorch does not count: the context, and losses of its allocator."""
    return parts.get("reserve", 0)


def _device(session: Session) -> Device | None:
    """Return the GPU that the figures were measured on: the present one, or the one named in the results."""
    if session.on_gpu:
        return devices.own_gpu()
    memory = session.reported("device").get("memory")
    notes = [line["value"] for line in read(session.results) if line.get("note") == "device"]
    return None if memory is None or not notes else devices.like(notes[-1].partition(",")[0], memory)
