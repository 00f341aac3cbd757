"""The checks of a family's tiny model: every column of the README's table is a promise that is kept or not."""

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from bitsandbytes.nn import Params4bit
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerFast

import tiny
from compatibility.families import ModelFamily
from drop_in.compare import steps, unchanged, weights
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.data import notes
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate, eos_token_ids
from spin_trl.generation.answer import Asked, generate
from spin_trl.generation.engine import Response, Sampling
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore
from spin_trl.models.logps import response_logps
from spin_trl.models.policy import load_policy

LN2: Final = 0.6931471805599453
NF4: Final = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
SAID: Final = {
    notes.NO_THINKING: "answers without thinking are rendered with `enable_thinking: false`, and this is said",
    notes.RECORDED_START: "prompts end without the thinking block that a generation opens, and this is said",
}
NUM_ROWS: Final = 4
IDS: Final = torch.arange(5, 25).unsqueeze(0)


class Broken(Exception):  # noqa: N818 - no error of the code, but what a column says about a family
    """A promise that does not hold for a family, and the reason."""


class NotTried(Exception):  # noqa: N818
    """A prerequisite of a column does not work, as another column shows."""


class Trial:
    """A family's tiny model, on which the columns are tried, in the order of `COLUMNS`.

    A column's method returns what a user has to do for it, or "", and raises if it is not possible.

    Args:
        family: family of the model.
        folder: folder for models and outputs.
    """

    def __init__(self, family: ModelFamily, folder: Path) -> None:
        self.family = family
        self.folder = folder
        tokenizer = family.tokenizer()
        self.start = str(tiny.save(folder / "start", family.model(tokenizer), tokenizer))
        self.rows = tiny.sft(NUM_ROWS)  # plain text, until the template is known to work
        self.target_modules: str | None = None
        self.sampled: list[list[int]] = []
        self.trained: SPINTrainer | None = None
        self.reasons: list[str] = []

    def template(self) -> str:
        """A real response is in the same place as a generated one, in every template of the family's."""
        said = [self._said_of(self.family.tokenizer(name)) for name in self.family.templates or (None,)]
        assert all(one == said[0] for one in said), "the family's templates behave differently: split it into two"
        self.rows = tiny.sft(NUM_ROWS, "messages")
        return ", ".join(SAID[note] for note in sorted(said[0]))

    def _said_of(self, tokenizer: PreTrainedTokenizerFast) -> frozenset[str]:
        """Return the messages to a user about a template that is given typical messages."""
        prompt, answer = tiny.sft(1, "messages")[0]["messages"]
        return PairTemplate(tokenizer).encode([prompt], answer).notes

    def answers(self) -> str:
        """Prompts that are answered together get the same answer as alone, and again the second time."""
        tokenizer, model = self.family.tokenizer(), load_policy(self.start, self._settings("answers"))
        template = PairTemplate(tokenizer, eos_token_ids(tokenizer, model.generation_config))
        rows = prepare(self.rows, template)
        sampling = Sampling.from_args(self._settings("answers"))
        engine = TransformersEngine(model, template.eos_ids, tokenizer.pad_token_id)
        chunks = dataclasses.replace(engine, chunk_size=3)  # rows that have ended are dropped between two chunks
        greedy = chunks.answer(rows["prompt_ids"], dataclasses.replace(sampling, temperature=0.0), seed=0)
        for prompt, response in zip(rows["prompt_ids"], greedy, strict=True):
            if response != continued(model, prompt, template.eos_ids, sampling.limit(len(prompt))):
                raise Broken("a prompt's answer depends on those that are answered with it")
        twice = [self._sampled(engine, rows, name) for name in ("once", "again")]
        if twice[0] != twice[1]:
            raise Broken("answers are others a second time")
        self.sampled = twice[0]
        return ""

    def training(self) -> str:
        """An iteration starts at its opponent, with a loss of ln 2, and moves every weight of the language model."""
        trainer = self._trainer("full")
        before = weights(trainer.model)
        with not_shared(self.reasons):
            trainer.train()
        starts_at_its_opponent(trainer)
        if self.sampled and self.sampled != [
            trainer.data_collator.generations[(row["key"], 0, 0)] for row in trainer.train_dataset
        ]:
            raise Broken("the trainer trains on other answers than were sampled")
        language = {id(parameter) for parameter in trainer.model.get_decoder().parameters()}
        stuck = unchanged(before, trainer.model)
        held = [name for name, p in trainer.model.named_parameters() if id(p) in language and name in stuck]
        if held or not language:
            raise Broken(f"weights don't move: {', '.join(held)}")
        self.trained = trainer
        return ""

    def shared(self) -> str:
        """Every prompt is run once for both of its responses."""
        if self.trained is None:
            raise NotTried
        if self.reasons:
            raise Broken(self.reasons[0])
        return ""

    def saved(self) -> str:
        """A trained model gives the same log-probabilities when loaded by transformers alone and when measured by a run."""
        if self.trained is None:
            raise NotTried
        folder = str(self.folder / "saved")
        self.trained.save_model(folder)
        expected = loaded(folder)
        same_logps(self.trained.model, expected)
        ids = IDS[0].tolist()
        measured = response_logps(
            load_policy(folder, self._settings("saved")), [(ids[:9], ids[9:])], pad_token_id=0, batch_size=1
        )
        by_hand = float(logps(expected)[0, range(8, 19), ids[9:]].sum())
        if abs(measured[0] - by_hand) > 1e-3:
            raise Broken(f"a run measures a log-probability of {measured[0]:.3f} instead of {by_hand:.3f}")
        return ""

    def lora(self) -> str:
        """Two iterations of an adapter each start from their opponent; only the adapter is saved, and it loads."""
        note = ""
        try:
            trainer = self._trainer("lora", peft_config=self._lora())
        except ValueError as error:
            if "target_modules" not in str(error):
                raise
            self.target_modules, note = "all-linear", "with `lora_target_modules: all-linear`"
            trainer = self._trainer("lora", peft_config=self._lora())
        for _ in range(2):
            before = weights(trainer.model)
            trainer.train()
            starts_at_its_opponent(trainer)
            an_adapter_learns(trainer.model, before)
        folder = self.folder / "adapter"
        trainer.save_model(str(folder))
        names = load_file(folder / "adapter_model.safetensors")
        if not names or any(".ref." in name for name in names) or (folder / "ref").exists():
            raise Broken("the frozen opponent is saved with the adapter")
        same_logps(trainer.model, PeftModel.from_pretrained(loaded(self.start), str(folder)))
        return note

    def four_bit(self) -> str:
        """An iteration of an adapter runs on NF4 weights."""
        trainer = self._trainer(
            "4-bit", peft_config=self._lora(), quantization_config=BitsAndBytesConfig(**NF4), shared_prefix=None
        )
        before = weights(trainer.model)
        kinds = {name: type(parameter) for name, parameter in trainer.model.named_parameters()}
        if Params4bit not in kinds.values():
            raise Broken("no weight is quantised")
        trainer.train()
        starts_at_its_opponent(trainer)
        an_adapter_learns(trainer.model, before)
        experts = {kind for name, kind in kinds.items() if ".experts." in name and "lora_" not in name}
        return "" if experts <= {Params4bit} else "except the experts, which are not linear layers and are unchanged"

    def _sampled(self, engine: TransformersEngine, rows: Dataset, name: str) -> list[list[int]]:
        store = GenerationStore(self.folder / name)
        asked = Asked("data", "template", "model")
        sampling = Sampling.from_args(self._settings(name))
        generate(engine, rows, store, sampling, asked, iteration=0, disable_progress=True)
        generations = Generations.load({0: store})
        return [generations[(key, 0, 0)] for key in rows["key"]]

    def _lora(self) -> LoraConfig:
        return LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=self.target_modules)

    def _settings(self, name: str, **more: Any) -> SPINConfig:
        """Return settings for two steps of two pairs, on the CPU, in float32."""
        return SPINConfig(
            output_dir=str(self.folder / name),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=2,
            num_train_epochs=1,
            learning_rate=2e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            max_length=None,
            max_new_tokens=8,
            generation_batch_size=NUM_ROWS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **more,
        )

    def _trainer(self, name: str, **more: Any) -> SPINTrainer:
        """Return a trainer that loads the saved start. Where prompts were shared silently, they must be from now on."""
        wanted = True if self.trained is not None and not self.reasons else None
        return SPINTrainer(
            self.start,
            args=self._settings(name, shared_prefix=more.pop("shared_prefix", wanted)),
            train_dataset=self.rows,
            processing_class=self.family.tokenizer(),
            **more,
        )


COLUMNS: Final[dict[str, Callable[[Trial], str]]] = {
    "template": Trial.template,
    "answers": Trial.answers,
    "training": Trial.training,
    "shared": Trial.shared,
    "saved": Trial.saved,
    "LoRA": Trial.lora,
    "4-bit": Trial.four_bit,
}


def row(family: ModelFamily, folder: Path) -> dict[str, str]:
    """Return the cells of a family's row: `yes`, `yes: what it takes`, `no: why not`, or `–` if nothing could be tried."""
    trial = Trial(family, folder)
    return {name: _cell(trial, column) for name, column in COLUMNS.items()}


def _cell(trial: Trial, column: Callable[[Trial], str]) -> str:
    try:
        note = column(trial)
    except NotTried:
        return "–"
    except Exception as error:  # a user could meet any exception of a library
        return f"no: {' '.join(str(error).split())}"
    return f"yes: {note}" if note else "yes"


def continued(model: PreTrainedModel, prompt: list[int], ends: list[int], most: int) -> Response:
    """Return the likeliest continuation, token by token, of one prompt without padding, a cache or `generate`."""
    ids = list(prompt)
    while len(ids) - len(prompt) < most:
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in ends:
            return Response(ids[len(prompt) :], "eos")
    return Response(ids[len(prompt) :], "length")


@contextlib.contextmanager
def not_shared(reasons: list[str]) -> Iterator[None]:
    """Note why prompts are not shared, in the words of the user's message, without the name of the model's class."""

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found = re.fullmatch(r"Prompts are not shared between responses: (.*)\.", record.getMessage())
            if found:
                reasons.append(re.sub(r"^\w+For\w+ ", "the model ", found[1]))

    handler, logger = Noting(), logging.getLogger("spin_trl.models.forward.batch")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def starts_at_its_opponent(trainer: SPINTrainer) -> None:
    """Check that the first loss is ln 2, plus a mixture's auxiliary loss; the trainer itself has compared the two models."""
    auxiliary = sum(steps(trainer, "aux_loss")[:1])
    first = steps(trainer)[0] - (trainer.router_aux_loss_coef * auxiliary if auxiliary else 0.0)
    if abs(first - LN2) > 1e-5:
        raise Broken(f"the first loss is {first:.5f} instead of ln 2")


def an_adapter_learns(model: PeftModel, before: dict[str, torch.Tensor]) -> None:
    """Check that adapters have moved, and nothing else has."""
    after = weights(model)  # the second iteration has a frozen copy that the first did not have
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    if not moved or any(".default." not in name for name in moved):
        raise Broken(f"training moves {', '.join(sorted(moved)) or 'nothing'}")


def loaded(folder: str | Path) -> PreTrainedModel:
    """Return a model as loaded by transformers alone, with the class that its configuration names."""
    name = AutoConfig.from_pretrained(folder).architectures[0]
    return getattr(transformers, name).from_pretrained(folder)


def logps(model: PreTrainedModel) -> torch.Tensor:
    """Return log-probabilities of every token after each of `IDS`, shape (1, 20, vocabulary)."""
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.log_softmax(dim=-1)


def same_logps(one: PreTrainedModel, other: PreTrainedModel) -> None:
    """Check that two models give the same log-probabilities of every token."""
    difference = float((logps(one) - logps(other)).abs().max())
    if not difference <= 1e-4:
        raise Broken(f"its log-probabilities differ by {difference:.2g}")
