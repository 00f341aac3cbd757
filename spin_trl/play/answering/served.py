"""Starts processes with a model of a run that generate, vLLM servers or our own, and gives the engine that asks them."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from transformers import PreTrainedConfig

from ...config.engines import TRANSFORMERS, VLLM
from ...errors import LaunchError, noted
from ...generation.batch_size import longest_rows
from ...generation.completions.address import ServerKey
from ...generation.completions.client import CompletionsClient
from ...generation.completions.waiting import Patience
from ...generation.continuous.batching import CONTINUOUS_LAYERS
from ...generation.continuous.worker import Job
from ...generation.continuous.workers import ContinuousWorkers, continuous_workers
from ...generation.engine import Sampling
from ...generation.engines.vllm import VllmEngine
from ...generation.vllm.environment import device_groups
from ...generation.vllm.flags import Flags, check_more
from ...generation.vllm.memory import kv_cache_bytes, memory_share
from ...generation.vllm.process import Server
from ...generation.vllm.servers import running, why_ended
from ...generation.vllm.to_serve import ToServe, is_of_bitsandbytes
from ...models.adapters import base_of, is_adapter, load_adapter_config, local_folder
from ...models.loading import model_config_of
from ...run.run import Run
from .loadable import loadable

Served: TypeAlias = VllmEngine | ContinuousWorkers
"""Engines that generate in processes of their own."""

BASE_NAME = "policy"
"""Name of the model, or of an adapter's base, on the run's own servers."""

MOST_SEQUENCES = 1024
"""Most sequences that a server on a GPU is given for the samples of prompts at a time: vLLM's default on large GPUs."""

SERVER_LOGS = "vllm"
"""Entry of the run directory with the output of the servers that were started last."""


@contextlib.contextmanager
def serve(run: Run, path: str, eos_token_ids: Sequence[int]) -> Iterator[Served]:
    """Give an engine that generates with a model, by servers that run as long as the context.

    Args:
        run: the run.
        path: folder or Hub name of the model, or of an adapter. If vLLM would refuse the adapter, it is merged.
        eos_token_ids: ids of all tokens that end a response.

    Raises:
        LaunchError: if a server can't be started, with the likely cause and the end of its output; or if an adapter can't
            be merged.
    """
    if run.args.engine == TRANSFORMERS:
        with continuous_workers(_jobs(run, path, eos_token_ids)) as workers:
            yield workers
        return
    place, dtype = run.directory.own(SERVER_LOGS), _served_dtype(run, path)
    with loadable(run, path, place, dtype) as loaded, _serve(run, loaded, eos_token_ids) as served:
        yield served


@contextlib.contextmanager
def _serve(run: Run, path: str, eos_token_ids: Sequence[int]) -> Iterator[Served]:
    flags = _flags(run, path)
    servers = [
        Server(flags, _log(run, number), run.play.vllm_command, devices=devices)
        for number, devices in enumerate(_devices(run))
    ]
    adapter = str(local_folder(path).resolve()) if is_adapter(path) else None
    with running(servers):
        many = "" if len(servers) == 1 else f"{len(servers)} servers, such as "
        print(f"vLLM serves: {many}{servers[0].command_line}", flush=True)
        client = CompletionsClient(
            [server.url for server in servers],
            BASE_NAME if adapter is None else adapter_name(run, path),
            eos_token_ids,
            key={server.url: ServerKey(server.key) for server in servers},
            concurrency=_prompts_at_once(run, flags, len(servers)),
            patience=Patience(request=run.play.generation_timeout),
        )
        if adapter is not None:
            client.load_adapter(client.model, adapter)
        yield VllmEngine(client, client.version(), functools.partial(why_ended, servers))


def against_vllm(run: Run, config: PreTrainedConfig | None) -> Iterator[str]:
    """Yield the reasons why vLLM can't generate for a run.

    Args:
        run: the run.
        config: configuration of the model, or of the base of its adapter; None if it is not known.
    """
    if run.args.engine != VLLM:
        return
    refused: list[str] = []
    noted(refused, lambda: check_more(run.play.vllm_args or []))
    yield from refused
    command = next(iter(run.play.vllm_command), "")
    if shutil.which(command) is None:
        yield (
            f"`engine: vllm` needs vLLM, but there is no command {command!r}. Install it (it may have an environment of its "
            "own), and name the command in `vllm_command`."
        )
    yield from to_serve(run, config).refusals()


def quantises(run: Run) -> bool:
    """Return whether a run quantises the weights when it loads them, which vLLM does not do."""
    return run.quantization_config is not None or run.args.model_kwargs.get("quantization_config") is not None


def to_serve(run: Run, config: PreTrainedConfig | None) -> ToServe:
    """Return what vLLM would have to serve for a run.

    Args:
        run: the run.
        config: configuration of the model, or of the base of its adapter; None if it is not known.
    """
    adapters = [run.peft_config, *([run.sft_peft_config] if run.sft_first else [])]
    adapters += run.given.peft_config.values() if isinstance(run.given, PeftModel) else []
    starts_from_adapter = run.given is None and run.model is not None and is_adapter(str(run.model))
    return ToServe(
        config,
        adapters=[] if starts_from_adapter else [adapter for adapter in adapters if adapter is not None],
        adapter_folder=local_folder(str(run.model)) if starts_from_adapter else None,
        is_quantised=quantises(run) or is_of_bitsandbytes(getattr(config, "quantization_config", None)),
        needs_consent=quantises(run) and not run.play.vllm_unquantised_base,
        on_gpu=_on_gpu(run),
        num_gpus=torch.cuda.device_count(),
        tensor_parallel=run.play.tensor_parallel,
    )


def against_continuous(run: Run, config: PreTrainedConfig | None) -> Iterator[str]:
    """Yield the reasons why a run can't generate by continuous batching. The arguments are those of [`against_vllm`]."""
    if not run.play.generation_continuous:
        return
    if run.args.engine != TRANSFORMERS:
        yield f"`generation_continuous: true` is for `engine: {TRANSFORMERS}`; servers always do so. Leave it out."
    if run.quantization_config is not None:
        yield (
            "`generation_continuous: true` computes in one number format, which quantised weights don't have. Leave it out, "
            "or load the weights unquantised."
        )
    if config is not None:
        layers = set(getattr(config.get_text_config(), "layer_types", None) or ())
        others = sorted(layers - set(CONTINUOUS_LAYERS))
        if others:
            yield (
                f"`generation_continuous: true` needs attention in every layer, but {config.model_type} has "
                f"{', '.join(others)}. Leave it out."
            )


def _jobs(run: Run, path: str, eos_token_ids: Sequence[int]) -> list[tuple[Job, str | None]]:
    """Return what the workers of continuous batching generate with, one per GPU."""
    groups, concurrency = _devices(run), run.play.generation_concurrency
    at_once = -(-concurrency // len(groups)) if _on_gpu(run) else min(run.args.answers_at_once, concurrency)
    _, longest = longest_rows(run.answered_rows(), Sampling.from_args(run.args))
    job = Job(
        path=path if not os.path.isdir(path) else str(Path(path).resolve()),
        model_kwargs=run.args.model_kwargs,
        trust_remote_code=run.args.trust_remote_code,
        # The number format in which the trainer computes log-probabilities.
        dtype=torch.bfloat16 if run.args.bf16 else torch.float16 if run.args.fp16 else None,
        eos_token_ids=list(eos_token_ids),
        pad_token_id=int(run.tokenizer().pad_token_id),
        at_once=at_once,
        longest=longest,
        use_cpu=not _on_gpu(run),
    )
    return [(job, devices) for devices in groups]


def _flags(run: Run, path: str) -> Flags:
    """Derive what the servers are told from the run's settings, and from the memory that is free now."""
    adapts, options = is_adapter(path), run.args.model_kwargs
    whole = base_of(path) if adapts else path
    config = model_config_of(whole, run.args)
    on_gpu = _on_gpu(run)
    dtype: Any = _served_dtype(run, path)
    share = -(-run.play.generation_concurrency // len(_devices(run)))  # no server gets more at the same time
    # On a GPU, as many as are asked for, with all samples of a prompt; vLLM keeps memory for each of them.
    asked = min(share * run.args.num_generations, max(share, MOST_SEQUENCES))
    sequences = asked if on_gpu else min(run.args.answers_at_once, share)
    length = context_length(run)
    longest = length or getattr(config and config.get_text_config(), "max_position_embeddings", None)
    kv_cache = None
    if not on_gpu and config is not None and longest is not None:
        kv_cache = kv_cache_bytes(config, sequences, longest, 4 if dtype == "float32" else 2)
    return Flags(
        model=whole if not os.path.isdir(whole) else str(Path(whole).resolve()),
        name=BASE_NAME,
        dtype=dtype,
        max_length=length,
        max_num_seqs=sequences,
        memory_share=min(memory_share(*torch.cuda.mem_get_info(number)) for number in range(torch.cuda.device_count()))
        if on_gpu
        else None,
        kv_cache_bytes=kv_cache,
        tensor_parallel=run.play.tensor_parallel,
        lora_rank=getattr(load_adapter_config(path), "r", None) if adapts else None,
        revision=options.get("revision") if not os.path.isdir(whole) else None,
        trust_remote_code=run.args.trust_remote_code,
        more=run.play.vllm_args or (),
    )


def _prompts_at_once(run: Run, flags: Flags, num_servers: int) -> int:
    """Return the number of prompts that are asked for at the same time: no more than the servers work on.

    Others would wait on a server while their time limit (`generation_timeout`) runs.
    """
    if flags.sequences is None:
        return run.play.generation_concurrency
    by_each = max(flags.sequences // run.args.num_generations, 1)
    return min(run.play.generation_concurrency, num_servers * by_each)


def context_length(run: Run) -> int | None:
    """Return how many tokens a prompt and its response may have together on a server; None: as many as the model allows.

    With `truncation_mode: keep_end`, prompts may be longer than `max_length`, and each still gets a token.
    """
    if run.args.max_length is None or run.args.truncation_mode == "keep_start":
        return run.args.max_length
    _, longest = longest_rows(run.answered_rows(), Sampling.from_args(run.args))
    return max(run.args.max_length, longest)


def _served_dtype(run: Run, path: str) -> str:
    """Return the number format in which the trainer computes log-probabilities."""
    if run.args.bf16 or run.args.fp16:
        return "bfloat16" if run.args.bf16 else "float16"
    whole = base_of(path) if is_adapter(path) else path
    return _dtype(run.args.model_kwargs.get("dtype"), model_config_of(whole, run.args))


def _dtype(given: Any, config: PreTrainedConfig | None) -> str:
    if isinstance(given, torch.dtype):
        return str(given).removeprefix("torch.")
    if given == "auto":
        return str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    return str(given or "float32")  # as TRL loads a model


def _on_gpu(run: Run) -> bool:
    return torch.cuda.is_available() and not run.args.use_cpu


def _devices(run: Run) -> list[str | None]:
    """Return the value of `CUDA_VISIBLE_DEVICES` for every server."""
    if not _on_gpu(run):
        return [None]
    groups = device_groups(torch.cuda.device_count(), run.play.tensor_parallel, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not groups:
        raise LaunchError(
            f"`tensor_parallel` is {run.play.tensor_parallel}, but there are {torch.cuda.device_count()} GPUs."
        )
    return [*groups]


def _log(run: Run, number: int) -> Path:
    """Return the path of a server's log, without that of an earlier server. Machines that share the disk have their own."""
    path = run.directory.own(SERVER_LOGS) / f"{socket.gethostname()}-{number}.log"
    path.unlink(missing_ok=True)
    return path


def adapter_name(run: Run, path: str) -> str:
    """Return a name for an adapter by its place in the run, such as `my-run-iteration-2`."""
    folder, directory = local_folder(path).resolve(), run.directory.path.resolve()
    inside = folder.relative_to(directory) if folder.is_relative_to(directory) else folder
    return "-".join([directory.name, *(part for part in inside.parts if part not in ("/", "model"))])
