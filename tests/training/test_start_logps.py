"""The start's log-probabilities are computed once, stored in files, and mixed into the opponent's as in alpha-SPIN."""

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny
from messages import logged as says
from messages import refused
from spin_trl import SPINTrainer
from spin_trl.errors import DataError, GenerationsError, OpponentError, RecipeError
from spin_trl.files import write_json
from spin_trl.generation.generations import Generations
from spin_trl.models.digest import START_ADAPTER, digest
from spin_trl.training import start_logps
from spin_trl.training.start_logps import START_LOGPS, ResponseSet, StartLogps, score_together
from trainers import LORA, build, logged, logp, pairs, settings, store_of

pytestmark = pytest.mark.numeric

MIX, BETA = 0.3, 0.5


def softplus(z: float) -> float:
    return math.log1p(math.exp(z))


def adapted(folder: Path, base: Path, seed: int) -> Path:
    """Save an adapter that changes the base model's output; return its folder."""
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**LORA))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Generations:
    """Return generations for the six rows, as if they were of iteration 1."""
    trainer = build(str(llama_folder), overrides={"output_dir": str(tmp_path_factory.mktemp("made")), "max_steps": 1})
    trainer.train()
    return Generations({1: store_of(trainer).table()})


def mixing(model: Any, start: Any, made: Generations, **kwargs: Any) -> SPINTrainer:
    """Return a trainer at iteration 1 whose first step has all six pairs."""
    overrides = {"opponent_mix": MIX, "beta": BETA, "per_device_train_batch_size": 6, "max_steps": 2}
    overrides |= kwargs.pop("overrides", {})
    return build(str(model), overrides=overrides, generations=made, start=start, **kwargs)


def logratios(trainer: SPINTrainer, opponent: Any, start: Any, mix: float = MIX) -> list[tuple[float, float]]:
    """Return log-ratios r and r' of all pairs while the policy equals its opponent, from both models' own logits.

    log π_t - ((1 - mix) log π_t + mix log π_0) = mix (log π_t - log π_0).
    """

    def ratio(prompt: list[int], response: list[int]) -> float:
        return mix * (logp(opponent, prompt, response) - logp(start, prompt, response))

    return [
        (ratio(row["prompt_ids"], row["real_ids"]), ratio(row["prompt_ids"], generated))
        for row, generated in pairs(trainer)
    ]


# ---- the mixture ------------------------------------------------------------------------------------------------------


def of_sigmoid(found: list[tuple[float, float]]) -> float:
    return sum(softplus(-BETA * (real - generated)) for real, generated in found) / len(found)


def of_space(found: list[tuple[float, float]]) -> float:
    return sum(softplus(-real) + softplus(generated) for real, generated in found) / len(found)


def of_iris(found: list[tuple[float, float]]) -> float:
    """Return the IRIS loss of order 2 over all pairs of the step."""
    reward = math.log(sum(math.exp(real) for real, _ in found) / len(found))
    return math.log(sum(math.exp(2 * generated) for _, generated in found) / len(found)) / 2 - reward


@pytest.mark.parametrize(
    ("overrides", "loss"),
    [
        ({}, of_sigmoid),
        ({"loss_type": "space", "beta": 0.1}, of_space),
        (
            {
                "loss_type": "iris",
                "iris_schedule": "fixed",
                "iris_alpha": 2.0,
                "beta": 0.1,
                "per_device_train_batch_size": 3,
                "gradient_accumulation_steps": 2,
            },
            of_iris,
        ),
    ],
    ids=["sigmoid", "space", "iris, over micro-batches"],
)
def test_the_reference_is_the_mixture_of_opponent_and_start(
    overrides: dict[str, Any],
    loss: Callable[[list[tuple[float, float]]], float],
    llama_folder: Path,
    made: Generations,
    tmp_path: Path,
) -> None:
    """The first loss is computed from the logits of both models; the check of the starting point passes."""
    later = tiny.save(tmp_path / "later", tiny.model(seed=1))
    trainer = mixing(later, llama_folder, made, overrides=overrides)
    trainer.train()
    found = logratios(trainer, tiny.model(seed=1), tiny.model())
    assert max(abs(real) for real, _ in found) > 0.5
    assert logged(trainer)[0] == pytest.approx(loss(found), abs=1e-4)
    if not overrides:
        assert logged(trainer, "rewards/chosen")[0] == pytest.approx(BETA * sum(r for r, _ in found) / 6, abs=1e-4)
        assert logged(trainer, "rewards/rejected")[0] == pytest.approx(BETA * sum(r for _, r in found) / 6, abs=1e-4)


def test_an_explicit_reference_is_mixed_at_every_step(llama_folder: Path, made: Generations) -> None:
    """Its log-probabilities are computed in the step; the policy is θ_0 here, so r = (1 - mix) (log π_0 - log π_ref)."""
    other = tiny.model(seed=1)
    trainer = mixing(llama_folder, tiny.model(), made, ref_model=other)
    assert not trainer.precompute_ref_logps
    trainer.train()
    found = logratios(trainer, tiny.model(), tiny.model(seed=1), 1 - MIX)
    assert logged(trainer)[0] == pytest.approx(of_sigmoid(found), abs=1e-4)


def test_a_mixture_does_not_hide_a_policy_that_left_its_opponent(
    llama_folder: Path, made: Generations, tmp_path: Path
) -> None:
    """Log-ratios to the mixture are never zero; those to the opponent alone are, unless weights have changed."""
    later = tiny.save(tmp_path / "later", tiny.model(seed=1))
    for mix in (MIX, 1.0):
        trainer = mixing(later, llama_folder, made, overrides={"opponent_mix": mix, "output_dir": f"out-{mix}"})
        with torch.no_grad():
            trainer.model.model.layers[0].mlp.down_proj.weight.add_(0.05)
        with refused(OpponentError, "`check_opponent: false`"):
            trainer.train()


@pytest.mark.parametrize("kind", ["base", "adapter", "other base"])
def test_lora_mixes_its_base_or_a_second_frozen_adapter(
    kind: str, llama_folder: Path, made: Generations, tmp_path: Path
) -> None:
    """The start is the base, an adapter around it, or an adapter around another model, which is loaded as a whole."""
    base = tiny.save(tmp_path / "another", tiny.model(seed=2)) if kind == "other base" else llama_folder
    start = base if kind == "base" else adapted(tmp_path / "first", base, 3)
    later = adapted(tmp_path / "later", llama_folder, 4)
    trainer = mixing(later, str(start), made)
    assert (START_ADAPTER in trainer.model.peft_config) == (kind == "adapter")
    before = digest(trainer.model)
    trainer.train()
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (llama_folder, base)]
    opponent = PeftModel.from_pretrained(models[0], later).eval()
    theta_0 = models[1] if kind == "base" else PeftModel.from_pretrained(models[1], start).eval()
    assert logged(trainer)[0] == pytest.approx(of_sigmoid(logratios(trainer, opponent, theta_0)), abs=1e-4)
    assert before == digest(opponent), "the digest is that of the policy alone"
    (file,) = Path("out/start-logps").glob("real-*")
    assert json.loads(file.read_text(encoding="utf-8"))["model"] == digest(theta_0)
    trainer.save_model("saved")
    assert not any(START_ADAPTER in str(path) for path in Path("saved").rglob("*"))
    assert load_file("saved/adapter_model.safetensors").keys() == load_file(later / "adapter_model.safetensors").keys()


def test_training_again_mixes_the_first_opponent(llama_folder: Path, tmp_path: Path) -> None:
    """Of three calls on one object, with an adapter as θ_0, the first mixes nothing and the others mix θ_0."""
    first = adapted(tmp_path / "first", llama_folder, 3)
    overrides = {"opponent_mix": MIX, "beta": BETA, "per_device_train_batch_size": 6, "learning_rate": 5e-3}
    trainer = build(str(first), overrides=overrides)
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-5)
    theta_0 = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), first).eval()
    for call in range(2):
        trainer.save_model(f"saved-{call}")
        trainer.train()
        base = AutoModelForCausalLM.from_pretrained(llama_folder)
        opponent = PeftModel.from_pretrained(base, f"saved-{call}").eval()
        found = logratios(trainer, opponent, theta_0)
        assert max(abs(real) for real, _ in found) > 1e-3
        assert logged(trainer)[0] == pytest.approx(of_sigmoid(found), abs=1e-4)
    assert len(list(Path("out/start-logps").glob("real-*"))) == 1


def test_training_all_weights_again_needs_the_start(llama_folder: Path) -> None:
    trainer = build(str(llama_folder), overrides={"opponent_mix": MIX})
    trainer.train()
    with refused(RecipeError, "`opponent_mix`", "`start`"):
        trainer.train()


def test_an_evaluation_is_against_the_mixture(llama_folder: Path, made: Generations, tmp_path: Path) -> None:
    later = tiny.save(tmp_path / "later", tiny.model(seed=1))
    trainer = mixing(later, str(llama_folder), made, eval_dataset=tiny.sft(6))
    found = logratios(trainer, tiny.model(seed=1), tiny.model())
    rewards = trainer.evaluate()["eval_rewards/chosen"]
    assert rewards == pytest.approx(BETA * sum(real for real, _ in found) / 6, abs=1e-4)


# ---- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"loss_type": "tspin"}, ("`opponent_mix`", "`tspin`", 0.5)),
        ({"loss_type": ["sigmoid", "tspin"]}, ("`opponent_mix`", "`tspin`")),
        ({"loss_type": ["simpo", "sft"]}, ("`opponent_mix`", "`simpo`", "`sft`")),
        ({"ld_alpha": 0.5}, ("`opponent_mix`", "`ld_alpha`")),
        ({"opponent_mix": 1.5}, ("`opponent_mix`", 1.5)),
        ({"opponent_mix": -0.1}, ("`opponent_mix`", -0.1)),
    ],
    ids=["tspin", "with tspin", "no opponent", "ld_alpha", "above 1", "below 0"],
)
def test_settings_that_do_not_fit_are_refused(overrides: dict[str, Any], parts: tuple[object, ...]) -> None:
    with refused(RecipeError, *parts):
        settings(**{"opponent_mix": 0.5, **overrides})


def test_preference_data_is_refused(llama_folder: Path) -> None:
    """This holds for training and for evaluation."""
    with refused(DataError, "`opponent_mix`", "`start`", "`train_dataset`"):
        build(str(llama_folder), overrides={"opponent_mix": MIX}, start="x", train_dataset=tiny.preference(4))
    with refused(DataError, "`opponent_mix`", "`eval_dataset`"):
        build(str(llama_folder), overrides={"opponent_mix": MIX}, eval_dataset=tiny.preference(4))


def test_a_start_that_is_missing_or_not_used_is_refused(llama_folder: Path, made: Generations, tmp_path: Path) -> None:
    """Refused are generations of iteration 1 without θ_0, θ_0 without the setting, and a wrong type."""
    with refused(RecipeError, "`start`", "`opponent_mix`"):
        build(str(llama_folder), start=str(llama_folder))
    with refused(RecipeError, "`start`", "int"):
        build(str(llama_folder), start=3, overrides={"opponent_mix": MIX})
    trainer = build(str(llama_folder), overrides={"output_dir": "made"})
    trainer.train()
    store = store_of(trainer)
    manifest = store.manifest() | {"iteration": 1}
    write_json(store.folder / "generations.json", manifest)
    with refused(GenerationsError, "`opponent_mix`", "`start`", "iteration 1"):
        build(str(llama_folder), overrides={"opponent_mix": MIX}, generations=store)
    write_json(store.folder / "generations.json", {**manifest, "opponent": "start"})
    build(str(llama_folder), overrides={"opponent_mix": MIX}, generations=store)  # a run that fell back to θ_0


def test_sharded_weights_need_log_probabilities_that_are_known(llama_folder: Path, made: Generations) -> None:
    """Under FSDP and DeepSpeed no whole start can be loaded, so log-probabilities stored by the generate phase are used."""
    trainer = mixing(llama_folder, str(llama_folder), made)
    rows, expected = trainer._rows_by_name["train"], trainer.train_dataset[START_LOGPS[1]][:]
    trainer.is_deepspeed_enabled = True
    with refused(RecipeError, "`opponent_mix`", "`spin-trl run`"):
        trainer._with_opponent(rows, "train", precompute=False)

    def score(responses: ResponseSet) -> list[float]:
        raise AssertionError

    trainer._start = StartLogps(Path("out/start-logps"), digest(tiny.model()), "no", score)
    again = trainer._with_opponent(rows, "train", precompute=False)
    assert again[START_LOGPS[1]][:] == expected
    trainer._start = StartLogps(Path("elsewhere"), digest(tiny.model()), "no", score)
    with refused(RecipeError, "`opponent_mix`", "`spin-trl run`"):
        trainer._with_opponent(rows, "train", precompute=False)


# ---- scoring and its files --------------------------------------------------------------------------------------------

ROWS = [([5, 6, 7], [8, 9]), ([5, 6], [10]), ([11] * 6, [12, 13, 14, 15]), ([7], [])]


def responses(rows: list[tuple[list[int], list[int]]]) -> ResponseSet:
    return ResponseSet(range(len(rows)), rows.__getitem__)


def test_each_response_is_scored_as_by_itself() -> None:
    """Batches are of two, sorted by length; the results are in the order of the rows."""
    found = score_together(
        tiny.model(), responses(ROWS), pad_token_id=0, batch_size=2, autocast=contextlib.nullcontext
    )
    assert found == pytest.approx([logp(tiny.model(), *row) for row in ROWS], abs=1e-4)


def test_what_is_known_is_not_scored_again(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Known results depend on start, precision and tokens; a damaged file is replaced."""
    asked: list[int] = []

    def score(rows: ResponseSet) -> list[float]:
        asked.append(len(rows))
        return [-0.1 * len(row[1]) for row in rows]

    def known(model: str = "m", precision: str = "no") -> StartLogps:
        return StartLogps(tmp_path / "kept" / "here", model, precision, score)

    first = known().of("real", responses(ROWS))
    assert first == [-0.2, -0.1, -0.4, 0.0]
    assert known().of("real", responses(ROWS)) == first
    assert asked == [4]
    known("other").of("real", responses(ROWS))
    known("m", "bf16").of("real", responses(ROWS))
    known().of("real", responses(ROWS[:-1]))
    assert asked == [4, 4, 4, 3]
    path = known().path("real", responses(ROWS))
    for damage in ("{", path.read_text(encoding="utf-8").replace("-0.2", "-0.3")):
        path.write_text(damage, encoding="utf-8")
        assert known().of("real", responses(ROWS)) == first
        says(caplog, path)
    assert asked[4:] == [4, 4]


def test_a_trainer_scores_each_response_once(
    llama_folder: Path, made: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another trainer with the same output folder scores only the generations that are new."""
    scored: list[int] = []
    original = start_logps.response_logps

    def counted(model: Any, rows: Any, **kwargs: Any) -> list[float]:
        scored.append(len(rows))
        return original(model, rows, **kwargs)

    monkeypatch.setattr(start_logps, "response_logps", counted)
    first = mixing(llama_folder, str(llama_folder), made)
    assert scored == [6, 6]
    (key, _, _), ids = next(iter(made.items()))
    changed = Dataset.from_list(
        [{"key": name[0], "ids": ids if name[0] == key else [9, *other]} for name, other in made.items()]
    )
    second = mixing(llama_folder, str(llama_folder), Generations.from_dataset(changed, 2))
    assert scored == [6, 6, 6]
    name = START_LOGPS[0]
    assert first.train_dataset[name][:] == second.train_dataset[name][:]
