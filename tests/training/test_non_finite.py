"""Steps whose loss or gradient is not finite are handled as `on_nan` says, with one process and with two."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch

import tiny
from messages import names, refused
from processes import TWO, launched
from spin_trl import SPINTrainer
from spin_trl.config.sft import SupervisedConfig
from spin_trl.errors import DataError, DivergedError, RecipeError
from spin_trl.training.non_finite import MOST_SCALER_SKIPS, SCALER_SKIPPED, SKIPPED, likely_cause, scaler_fault
from trainers import build, logged, settings

TWO_PAIRS = {"per_device_train_batch_size": 2}
"""Three steps per epoch."""


def with_faults(trainer: SPINTrainer, micro_batches: Collection[int], *, in_gradient: bool = False) -> SPINTrainer:
    """Make the loss of these micro-batches, or only the gradient, NaN; counted from 1 at the trainer's start."""
    compute, count = trainer._compute_loss, 0

    def faulty(self: SPINTrainer, model: Any, inputs: Any, return_outputs: bool) -> Any:
        nonlocal count
        loss = compute(model, inputs, return_outputs)
        count += self.model.training
        if count not in micro_batches or not self.model.training:
            return loss
        if in_gradient:
            loss.register_hook(lambda gradient: gradient * math.nan)
            return loss
        return loss * math.nan

    trainer._compute_loss = MethodType(faulty, trainer)  # type: ignore[method-assign]
    return trainer


def state(trainer: SPINTrainer) -> dict[str, torch.Tensor]:
    """Return copies of all weights, and of the optimiser's state of each."""
    kept = trainer.optimizer.state_dict()["state"] if trainer.optimizer is not None else {}
    of_optimizer = {f"{key}/{name}": value.clone() for key, of in kept.items() for name, value in of.items()}
    return {name: value.clone() for name, value in trainer.model.state_dict().items()} | of_optimizer


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("in_gradient", [False, True], ids=["loss", "gradient"])
def test_training_stops_before_the_step_and_names_its_rows(llama: Any, in_gradient: bool) -> None:
    overrides = {**TWO_PAIRS, "save_strategy": "steps", "save_steps": 1}
    trainer = with_faults(build(llama, overrides=overrides), {2}, in_gradient=in_gradient)
    with refused(DivergedError, "step 2", "2 rows", "`learning_rate`", "`on_nan: lower`") as error:
        trainer.train()
    assert error.value.step == 2
    assert sum(names(str(error.value), row["key"]) for row in trainer.train_dataset) == 2
    assert [path.name for path in Path("out").glob("checkpoint-*")] == ["checkpoint-1"]
    assert trainer.state.global_step == 1


def test_supervised_training_names_the_setting_of_its_own_learning_rate() -> None:
    """In a run, `learning_rate` is self-play's; and supervised training has no `beta`."""
    args = SupervisedConfig("out", learning_rate=0.25, rate_setting="sft_learning_rate", use_cpu=True, bf16=False)
    cause = likely_cause(args, None, [], 2)
    assert names(cause, "`sft_learning_rate`", 0.25, "`max_grad_norm`")
    assert not names(cause, "`beta`")


def test_only_the_row_with_the_nan_is_named(llama: Any) -> None:
    trainer = build(llama, overrides={"per_device_train_batch_size": 6})
    trainer._for_each_dataset(trainer._with_opponent)
    with_nan = [{**row, "ref_chosen_logps": math.nan if n == 4 else row["ref_chosen_logps"]} for n, row in
                enumerate(trainer.train_dataset)]  # fmt: skip
    trainer.train_dataset = type(trainer.train_dataset).from_list(with_nan)
    with refused(DivergedError, "1 row", with_nan[4]["key"], "these rows"):
        trainer.train()


@pytest.mark.parametrize("in_gradient", [False, True], ids=["loss", "gradient"])
def test_a_step_that_is_left_out_changes_nothing(llama: Any, in_gradient: bool) -> None:
    """Weights, optimiser state and schedule don't change, and only the other steps' figures are logged."""
    overrides = {**TWO_PAIRS, "on_nan": "skip", "lr_scheduler_type": "linear", "weight_decay": 0.1}
    trainer = with_faults(build(llama, overrides=overrides), {2}, in_gradient=in_gradient)
    seen: list[dict[str, torch.Tensor]] = []
    schedule: list[float] = []

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(state(trainer))
        schedule.append(trainer.lr_scheduler.get_last_lr()[0])
        return type(trainer).training_step(self, *args, **kwargs)

    trainer.training_step = MethodType(noting, trainer)  # type: ignore[method-assign]
    trainer.train()
    assert not same(seen[0], seen[1])
    assert same(seen[1], seen[2])
    assert schedule[1] == schedule[2] < schedule[0]
    assert trainer.state.global_step == 3
    assert len(logged(trainer)) == 2
    assert logged(trainer, "skipped_steps") == [1, 1]
    assert all(math.isfinite(value) for value in logged(trainer, "rewards/margins"))
    (entry,) = [entry for entry in trainer.state.log_history if SKIPPED in entry]
    assert (entry["step"], len(entry[SKIPPED])) == (2, 2)


def test_training_that_leaves_a_step_out_is_resumed_exactly(llama: Any) -> None:
    """The result is the same bit for bit, and steps that were skipped before the interrupt count."""
    overrides = {**TWO_PAIRS, "on_nan": "skip", "save_strategy": "steps", "save_steps": 2}
    begun = tiny.model("llama")
    begun.load_state_dict(llama.state_dict())
    whole = with_faults(build(llama, overrides=overrides), {2})
    whole.train()
    again = build(begun, overrides=overrides)
    again.train(resume_from_checkpoint="out/checkpoint-2")
    assert same(state(whole), state(again))
    assert logged(again, "skipped_steps") == [1, 1]


def test_ten_steps_are_left_out_and_no_more(llama: Any) -> None:
    overrides = {**TWO_PAIRS, "on_nan": "skip", "max_steps": 20}
    trainer = with_faults(build(llama, overrides=overrides), range(2, 20))
    with refused(DivergedError, "step 12", "10 steps"):
        trainer.train()


def test_weights_that_are_no_numbers_are_named_before_anything_is_answered(tmp_path: Path, llama: Any) -> None:
    folder = tmp_path / "start"
    with torch.no_grad():
        llama.model.norm.weight[0] = math.nan
    llama.save_pretrained(folder)
    with refused(DivergedError, "`model.norm.weight`", "model.safetensors", folder):
        build(str(folder)).train()


def test_weights_that_are_no_numbers_are_named_at_the_first_step(llama: Any) -> None:
    """This holds for any answers and any value of `on_nan`, since nothing helps."""
    trainer = build(llama, overrides={"on_nan": "skip"})
    trainer._for_each_dataset(trainer._with_opponent)
    with torch.no_grad():
        llama.model.norm.weight[0] = math.inf
    with refused(DataError, "`model.norm.weight`", "first step"):
        trainer.train()


def test_steps_that_the_scaler_skips_are_counted(llama: Any) -> None:
    """The scaler finds the scale of float16 gradients by skipping, but twenty skips in a row are no longer a search."""
    overrides = {**TWO_PAIRS, "max_steps": 6}
    trainer = with_faults(build(llama, overrides=overrides), {1, 2, 4}, in_gradient=True)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    trainer.train()
    skipped = [entry["step"] for entry in trainer.state.log_history if SCALER_SKIPPED in entry]
    assert skipped == [1, 2, 4]
    assert logged(trainer, "scaler_skipped_steps") == [1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_step_that_is_left_out_changes_nothing_under_a_scaler(llama: Any, optim: str, max_grad_norm: float) -> None:
    """The scale does not change either, and the schedule does not advance, as after a step that the scaler itself has
    skipped.
    """
    overrides = {**TWO_PAIRS, "on_nan": "skip", "lr_scheduler_type": "linear", "weight_decay": 0.1, "max_steps": 4}
    overrides |= {"optim": optim, "max_grad_norm": max_grad_norm}
    trainer = with_faults(build(llama, overrides=overrides), {2})
    trainer.accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    seen: list[tuple[dict[str, torch.Tensor], float, float]] = []

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((state(trainer), trainer.lr_scheduler.get_last_lr()[0], scaler.get_scale()))
        return type(trainer).training_step(self, *args, **kwargs)

    trainer.training_step = MethodType(noting, trainer)  # type: ignore[method-assign]
    trainer.train()
    (before, *of_before), (after, *of_after) = seen[1], seen[2]
    assert same(before, after)
    assert of_before == of_after == [0.015, 1024.0]  # one of four steps of 0.02 was taken
    assert not same(after, seen[3][0])
    assert seen[3][1] == 0.01
    assert [entry["step"] for entry in trainer.state.log_history if SKIPPED in entry] == [2]


def test_a_trainer_alone_says_that_it_can_not_go_back(llama: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It says so when it is constructed, and when it stops."""
    trainer = with_faults(build(llama, overrides={"on_nan": "lower"}), {1})
    assert any(names(line, "`on_nan: lower`", "`SelfPlay`", "`on_nan: stop`") for line in caplog.messages)
    with refused(DivergedError, "step 1", "its own"):
        trainer.train()


def test_too_many_skips_of_the_scaler_are_a_fault(llama: Any) -> None:
    trainer = with_faults(build(llama, overrides={**TWO_PAIRS, "max_steps": 30}), range(1, 40), in_gradient=True)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    with refused(DivergedError, MOST_SCALER_SKIPS, "float16"):
        trainer.train()
    assert trainer.state.global_step == MOST_SCALER_SKIPS - 1


@pytest.mark.parametrize(
    ("steps", "scale", "is_fault"),
    [([3], 2.0, False), ([3], 0.5, True), (range(20), 2.0, True), ([0, *range(2, 21)], 2.0, False)],
)
def test_what_is_a_fault_of_the_scaler(steps: Collection[int], scale: float, is_fault: bool) -> None:
    history = [{"step": step, SCALER_SKIPPED: True} for step in steps]
    assert (scaler_fault(history, scale) is not None) == is_fault


def test_a_schedule_that_follows_figures_can_not_be_lowered() -> None:
    with refused(RecipeError, "`on_nan: lower`", "`lr_scheduler_type: reduce_lr_on_plateau`"):
        settings(on_nan="lower", lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps")


SCRIPT = """
import json, os, sys
sys.path[:0] = json.loads(os.environ["TESTS_PATH"])
from training.test_non_finite import of_two
of_two(sys.argv[1])
"""


def of_two(folder: str) -> None:
    """Train as one of two processes, where the second one's loss is NaN once; print what each has found."""
    found = {}
    for on_nan in ("skip", "stop"):
        overrides = {"per_device_train_batch_size": 1, "on_nan": on_nan, "output_dir": f"{folder}/{on_nan}"}
        trainer = build(tiny.model("llama"), overrides=overrides)
        rank = trainer.accelerator.process_index
        with_faults(trainer, {2} if rank == 1 else ())
        try:
            trainer.train()
            found[on_nan] = [entry["step"] for entry in trainer.state.log_history if SKIPPED in entry]
        except DivergedError as error:
            found[on_nan] = [error.step, str(error)]
    weights = float(sum(parameter.double().sum() for parameter in trainer.model.parameters()))
    Path(folder, f"{rank}.json").write_text(json.dumps({**found, "weights": weights}), encoding="utf-8")


def test_two_processes_decide_alike(tmp_path: Path) -> None:
    """Only one of them has a NaN, but both skip the step, or both stop and name the row."""
    script = tmp_path / "two.py"
    script.write_text(SCRIPT, encoding="utf-8")
    launched(["torch.distributed.run", *TWO, str(script), str(tmp_path)])
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    assert one == other
    assert one["skip"] == [2]
    assert one["stop"][0] == 2
    assert names(one["stop"][1], "1 row")
