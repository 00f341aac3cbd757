"""Runs lm-evaluation-harness, an optional extra, on a model that is at hand. Imported when a benchmark is to be run only.

Under several processes each answers its share of the requests. The harness's own way gives every process questions of its
own, and other few-shot examples than one process would draw; here all processes prepare the same questions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import BenchmarkError
from .benchmarks import Benchmark

T = TypeVar("T")

_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}


class SharedModel(HFLM):
    """A model that is at hand, as the harness wants it: every process answers its share of the requests.

    To the harness each process looks like the only one, so all prepare the same questions and know all answers.

    Args:
        model: on this process's device.
        tokenizer: the run's.
        accelerator: whose mixed precision is used, as everywhere in a run.
        batch_size: a number, or `auto`.
        chat_template_kwargs: of the run's template, for those who ask in it.
        disable_tqdm: show no progress.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        accelerator: Accelerator,
        batch_size: int | str,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        disable_tqdm: bool = False,
    ) -> None:
        self._quiet = disable_tqdm or not PartialState().is_main_process
        super().__init__(
            pretrained=model,
            backend="causal",
            tokenizer=tokenizer,
            batch_size=batch_size,
            mixed_precision_dtype=_AUTOCAST.get(accelerator.mixed_precision),
            chat_template_args=dict(chat_template_kwargs or {}),
            softmax_dtype="float32",  # sums of log-probabilities that were rounded to bfloat16 are coarse
        )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of every continuation, and whether it is the likeliest."""
        return shared(super().loglikelihood, requests, disable_tqdm or self._quiet)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of every text."""
        return shared(super().loglikelihood_rolling, requests, disable_tqdm or self._quiet)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model answers."""
        return shared(super().generate_until, requests, disable_tqdm or self._quiet)


def shared(answer: Callable[..., list[T]], requests: Sequence[Any], disable_tqdm: bool) -> list[T]:
    """Answer requests together: every process its share, all get everything, in order.

    Args:
        answer: gives one answer a request; takes `disable_tqdm`, too.
        requests: the same on every process. The choices of a question stay together: they share their context.
        disable_tqdm: show no progress.
    """
    state = PartialState()
    mine = [index for index, one in enumerate(requests) if one.doc_id % state.num_processes == state.process_index]
    found = on_all(lambda: answer([requests[index] for index in mine], disable_tqdm=disable_tqdm) if mine else [])
    answers = dict(gather_object(list(zip(mine, found, strict=True))))
    return [answers[index] for index in range(len(requests))]


def on_all(work: Callable[[], T]) -> T:
    """Do something on every process, and fail on all where one fails: the others would wait for it.

    Raises:
        BenchmarkError: it failed on a process.
    """
    results: list[T] = []
    failure: Exception | None = None
    try:
        results.append(work())
    except Exception as error:  # a task is somebody's code: what it may raise is not known
        failure = error
    said = [text for text in gather_object([None if failure is None else _said(failure)]) if text is not None]
    if said:
        raise BenchmarkError(said[0]) from failure
    return results[0]


class _Tasks(TaskManager):
    """The harness's tasks. The first process loads them alone, for it may download; what fails on one fails on all."""

    def load(self, task_list: Any) -> Any:
        load, is_first = super().load, PartialState().is_main_process
        first = on_all(lambda: load(task_list) if is_first else None)
        others = on_all(lambda: None if is_first else load(task_list))
        return first if is_first else others


@functools.cache
def tasks(include_path: str | None = None) -> TaskManager:
    """All tasks that the harness knows, and those in a folder. It reads many thousand files, once.

    Args:
        include_path: folder with tasks of one's own, as YAML.
    """
    return _Tasks(include_path=include_path)


def run_benchmark(
    model: SharedModel,
    benchmark: Benchmark,
    include_path: str | None = None,
    limit: float | None = None,
    *,
    apply_chat_template: bool = False,
    log_samples: bool = False,
) -> dict[str, Any] | None:
    """Run one benchmark.

    Args:
        model: which to run it on.
        benchmark: which to run.
        include_path: folder with tasks of one's own.
        limit: questions of every task, or a share of them; None: all.
        apply_chat_template: ask in the model's chat template.
        log_samples: return every question with its answer, too.

    Returns:
        The harness's results, as JSON has them; None on processes other than the first.

    Raises:
        BenchmarkError: the benchmark can't be loaded, or fails.
    """
    try:
        results = simple_evaluate(
            model=model,
            tasks=[benchmark.task],
            num_fewshot=benchmark.shots,
            task_manager=tasks(include_path),
            limit=limit,
            apply_chat_template=apply_chat_template,
            log_samples=log_samples,
            batch_size=model.batch_size,
            device=str(model.device),
        )
    except Exception as error:
        reason = str(error) if isinstance(error, BenchmarkError) else _said(error)
        name = benchmark.name if benchmark.name == benchmark.task else f"{benchmark.name} ({benchmark.task})"
        raise BenchmarkError(f"{name}: {reason}") from error
    if not PartialState().is_main_process:
        return None
    return json.loads(json.dumps(results, default=handle_non_serializable))


def _said(error: Exception) -> str:
    """What went wrong, and what can be done about what often does."""
    advice = ""
    if isinstance(error, torch.OutOfMemoryError):
        advice = " A smaller `--batch_size` needs less memory."
    elif isinstance(error, ModuleNotFoundError):
        advice = " `pip install 'spin_trl[lm-eval]'` brings what the papers' benchmarks need."
    elif isinstance(error, OSError):
        advice = (
            " Its data comes from the Hub, as a rule: is there a connection, and a login (`hf auth`) if it needs one?"
        )
    return f"{type(error).__name__}: {str(error).rstrip('.')}.{advice}"
