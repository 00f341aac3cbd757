"""Run lm-evaluation-harness, an optional extra, on a model in memory. Imported only when a benchmark is run.

Under several processes, each answers its share of the requests. The harness's own way gives each process different questions
and draws other few-shot examples than a single process would; here all processes prepare the same questions.
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
    """A model in memory with the harness's interface; every process answers its share of the requests.

    To the harness each process looks like the only one, so all prepare the same questions and get all answers.

    Args:
        model: model on this process's device.
        tokenizer: tokenizer of the run.
        accelerator: provides the mixed precision, as elsewhere in a run.
        batch_size: number, or `auto`.
        chat_template_kwargs: arguments of the run's chat template, used if questions are asked in it.
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
            softmax_dtype="float32",  # sums of log-probabilities rounded to bfloat16 are too coarse
        )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability of every continuation, and whether it is the most likely one."""
        return shared(super().loglikelihood, requests, disable_tqdm or self._quiet)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of every text."""
        return shared(super().loglikelihood_rolling, requests, disable_tqdm or self._quiet)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the model's answers."""
        return shared(super().generate_until, requests, disable_tqdm or self._quiet)


def shared(answer: Callable[..., list[T]], requests: Sequence[Any], disable_tqdm: bool) -> list[T]:
    """Answer requests on all processes: each answers its share, and all get every answer, in order.

    Args:
        answer: function that returns one answer per request; also takes `disable_tqdm`.
        requests: requests, the same on every process. The choices of a question share their context and stay together.
        disable_tqdm: show no progress.
    """
    state = PartialState()
    mine = [index for index, one in enumerate(requests) if one.doc_id % state.num_processes == state.process_index]
    found = on_all(lambda: answer([requests[index] for index in mine], disable_tqdm=disable_tqdm) if mine else [])
    answers = dict(gather_object(list(zip(mine, found, strict=True))))
    return [answers[index] for index in range(len(requests))]


def on_all(work: Callable[[], T]) -> T:
    """Run a function on every process, and fail on all if it fails on one, since the others would wait for it.

    Raises:
        BenchmarkError: if it failed on a process.
    """
    results: list[T] = []
    failure: Exception | None = None
    try:
        results.append(work())
    except Exception as error:  # a task is third-party code and may raise anything
        failure = error
    said = [text for text in gather_object([None if failure is None else _said(failure)]) if text is not None]
    if said:
        raise BenchmarkError(said[0]) from failure
    return results[0]


class _Tasks(TaskManager):
    """The harness's tasks. The main process loads them first, as this may download; a failure on one fails on all."""

    def load(self, task_list: Any) -> Any:
        load, is_first = super().load, PartialState().is_main_process
        first = on_all(lambda: load(task_list) if is_first else None)
        others = on_all(lambda: None if is_first else load(task_list))
        return first if is_first else others


@functools.cache
def tasks(include_path: str | None = None) -> TaskManager:
    """Return all tasks that the harness knows, and those in a folder. This reads many thousands of files, once.

    Args:
        include_path: folder with the user's own tasks, as YAML.
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
        model: model to run it on.
        benchmark: benchmark to run.
        include_path: folder with the user's own tasks.
        limit: number of questions per task, or a share of them; None: all.
        apply_chat_template: ask in the model's chat template.
        log_samples: also return every question with its answer.

    Returns:
        The harness's results in JSON types; None on processes other than the main one.

    Raises:
        BenchmarkError: if the benchmark can't be loaded, or fails.
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
    """Describe an error, with advice for the common ones."""
    advice = ""
    if isinstance(error, torch.OutOfMemoryError):
        advice = " A smaller `--batch_size` needs less memory."
    elif isinstance(error, ModuleNotFoundError):
        advice = " `pip install 'spin_trl[lm-eval]'` installs what the papers' benchmarks need."
    elif isinstance(error, OSError):
        advice = (
            " Its data usually comes from the Hub: check the connection, and log in (`hf auth`) if the data needs it."
        )
    return f"{type(error).__name__}: {str(error).rstrip('.')}.{advice}"
