"""What vLLM would have to serve for a run, and the reasons why it can't: the same for a run and for its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig
from transformers import PreTrainedConfig

from ...models.adapters import load_adapter_config
from ...models.merging import merge_refusals
from .refusals import adapter_folder_refusals, cpu_refusals, lora_refusals


def is_of_bitsandbytes(quantisation: object) -> bool:
    """Return whether a quantisation, as in a model's configuration, is bitsandbytes'.

    Args:
        quantisation: configuration object, or its mapping; None for no quantisation.
    """
    method = getattr(quantisation, "quant_method", "")
    if isinstance(quantisation, Mapping):
        method = quantisation.get("quant_method", "")
    return "bitsandbytes" in str(getattr(method, "value", method))


@dataclass(frozen=True)
class ToServe:
    """What is known, before a run begins, about the models that vLLM would serve for it.

    Attributes:
        config: configuration of the model, or of the base of its adapters; None if it is not known.
        adapters: configurations of the adapters that the run trains.
        adapter_folder: folder of the adapter that the run starts from, if it starts from one.
        is_quantised: whether the run quantises the weights when it loads them (`load_in_4bit`, `load_in_8bit`), or they are
            bitsandbytes' in the model's files.
        needs_consent: whether the run quantises the weights when it loads them, without `vllm_unquantised_base`.
        on_gpu: whether the run computes on GPUs.
        num_gpus: number of GPUs that it sees.
        tensor_parallel: GPUs that each server divides the model among.
    """

    config: PreTrainedConfig | None
    adapters: Sequence[PeftConfig] = ()
    adapter_folder: Path | None = None
    is_quantised: bool = False
    needs_consent: bool = False
    on_gpu: bool = True
    num_gpus: int = 1
    tensor_parallel: int = 1

    def refusals(self) -> Iterator[str]:
        """Yield the reasons, as sentences, why vLLM can't generate with these models here.

        Raises:
            DataError: if the files of an adapter can't be read.
        """
        if self.needs_consent:
            yield (
                "`engine: vllm` would generate with an unquantised base model, which is not quite the opponent: training "
                "computes with quantised weights. Use `engine: transformers`; or set `vllm_unquantised_base: true`, which "
                "manifests, report and cards then say."
            )
        for adapter in self.adapters:
            yield from _neither(lora_refusals(adapter), adapter)
        if self.adapter_folder is not None:
            yield from _neither(adapter_folder_refusals(self.adapter_folder), load_adapter_config(self.adapter_folder))
        if not self.on_gpu:
            if self.config is not None:
                yield from cpu_refusals(self.config)
        elif self.tensor_parallel > self.num_gpus:
            yield f"`tensor_parallel` is {self.tensor_parallel}, but there are {self.num_gpus} GPUs."


def _neither(refused: Iterator[str], adapter: PeftConfig) -> Iterator[str]:
    """Yield the reasons why vLLM neither loads an adapter nor can be given its base model with the adapter merged."""
    reason = next(refused, None)
    if reason is not None:
        yield from (f"{reason} {why}" for why in merge_refusals(adapter))
