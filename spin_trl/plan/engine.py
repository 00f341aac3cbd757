"""The engine that a planned run would generate with: chosen as the run itself does, from the same facts."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.engines import AUTO
from ..generation.vllm.choice import EngineChoice, choose_engine
from ..generation.vllm.to_serve import ToServe, is_of_bitsandbytes
from ..models.adapters import local_folder
from ..run.directory import RunDirectory
from ..run.settings import kept_engine
from .setup import Setup


@dataclass(frozen=True)
class Here:
    """What the place where a plan is made shows of its run.

    Attributes:
        run: directory of the run, whether it has begun or not; None: not known.
        num_gpus: number of GPUs that the run will see; None: as many as its settings need.
    """

    run: RunDirectory | None = None
    num_gpus: int | None = None


def settle_planned_engine(setup: Setup, here: Here) -> EngineChoice | None:
    """Set the engine of a planned run. Return what `engine: auto` has chosen, if it has to choose.

    Args:
        setup: setup of the run; its `args.engine` is set.
        here: what is known of the run.
    """
    if setup.args.engine != AUTO:
        return None
    kept = None if here.run is None else kept_engine(here.run, setup.play.existing_run)
    choice = choose_engine(what_to_serve(setup, here), setup.play.vllm_command) if kept is None else None
    setup.args.engine = choice.engine if choice is not None else str(kept)
    return choice


def what_to_serve(setup: Setup, here: Here) -> ToServe:
    """Return what vLLM would have to serve, as [`play.answering.served.to_serve`] does for a run."""
    needed = max(setup.num_processes, setup.play.tensor_parallel)
    adapters = [setup.peft, setup.sft_peft]
    name = setup.recipe.model.model_name_or_path
    starts_from_adapter = setup.starts_from_adapter and name is not None
    quantises = setup.quantization is not None or setup.args.model_kwargs.get("quantization_config") is not None
    return ToServe(
        setup.config,
        adapters=[] if starts_from_adapter else [adapter for adapter in adapters if adapter is not None],
        adapter_folder=local_folder(name) if starts_from_adapter and name is not None else None,
        is_quantised=quantises or is_of_bitsandbytes(getattr(setup.config, "quantization_config", None)),
        needs_consent=quantises and not setup.play.vllm_unquantised_base,
        on_gpu=setup.on_gpu,
        num_gpus=needed if here.num_gpus is None else here.num_gpus,
        tensor_parallel=setup.play.tensor_parallel,
    )
