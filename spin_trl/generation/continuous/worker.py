"""A process that generates with continuous batching: it gets prompts on stdin and writes responses to stdout.

A process of its own gives all memory of the device back when it ends.
"""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from accelerate import PartialState

from ...errors import message_of
from ...files import parse_json
from ...models.policy import load_policy
from ..engine import MicroBatch, Sampling
from .batching import ContinuousEngine


@dataclass
class Job:
    """What a worker generates with.

    Attributes:
        path: folder or Hub name of the model, or of an adapter.
        model_kwargs, trust_remote_code: settings for loading it, as in [`models.loading.LoadSettings`].
        dtype: number format to compute in; None: that of the weights.
        eos_token_ids: ids of all tokens that end a response.
        pad_token_id: id of the token that pads prompts.
        at_once: maximum number of responses in progress.
        longest: tokens of the longest prompt with its response.
        use_cpu: whether to use the CPU, even if there is a GPU.
    """

    path: str
    model_kwargs: dict[str, Any]
    trust_remote_code: bool
    dtype: torch.dtype | None
    eos_token_ids: list[int]
    pad_token_id: int
    at_once: int
    longest: int
    use_cpu: bool

    def engine(self) -> ContinuousEngine:
        """Load the model, and return the engine that generates with it.

        Raises:
            DataError: if the model can't be loaded.
        """
        device = PartialState(cpu=self.use_cpu).device
        model = load_policy(self.path, self).to(device)
        if self.dtype is not None:
            model = model.to(self.dtype)
        return ContinuousEngine(model.eval(), self.eos_token_ids, self.pad_token_id, self.at_once, self.longest)


def work(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer what comes in until the input ends. Every line is JSON.

    Args:
        source: input: `{"job": ...}`, then any number of times `{"sampling": {...}}`, `{"number", "prompts", "seed"}` for
            every micro-batch, and `{"end": true}`.
        sink: output: `{"ready": true}`, then any number of times `{"number", "responses"}` for every micro-batch, as they
            are finished, and `{"done": true}`. After an error: `{"error": ...}`.
    """

    def tell(message: dict[str, Any]) -> None:
        sink.write(json.dumps(message).encode() + b"\n")
        sink.flush()

    def batches() -> Iterator[MicroBatch]:
        for line in source:
            message = parse_json(line)
            if "end" in message:
                return
            yield MicroBatch(**message)

    try:
        job: Job = pickle.loads(base64.b64decode(parse_json(source.readline())["job"]))
        engine = job.engine()
        tell({"ready": True})
        for line in source:
            sampling = Sampling(**parse_json(line)["sampling"])
            for number, responses in engine.generate(batches(), sampling):
                tell({"number": number, "responses": [[made.ids, made.finish_reason] for made in responses]})
            tell({"done": True})
    except Exception as error:
        tell({"error": message_of(error)})
        raise


def job_message(job: Job) -> dict[str, str]:
    """Return a job as the first message to a worker. It is pickled: `model_init_kwargs` may hold any object."""
    return {"job": base64.b64encode(pickle.dumps(job)).decode()}
