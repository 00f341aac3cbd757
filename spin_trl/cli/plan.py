"""`spin-trl plan`: estimate the memory, time and disk a run will need before anything is paid for."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from ..errors import DoesNotFitError
from ..quiet import quiet
from .commands import RECIPES, add_command
from .session import quieten, run_dir_of

_DESCRIPTION = """\
Estimate what a run will need: peak memory by phase and component, whether it fits, tokens, hours and disk. Nothing is
trained, and no weights are read or downloaded: the model's config.json is enough; its tokenizer and the data are used if
they are available.
Exit codes: 0 it fits, or no GPU was named; 1 it does not fit the named GPU; 2 bad input.
"""


def add(commands: Any) -> None:
    """Add the command."""
    what = "estimate the memory, hours and disk a run will need"
    parser = add_command(commands, "plan", plan, help=what, description=_DESCRIPTION, epilog=RECIPES)
    parser.add_argument("recipe", help="recipe or run directory")
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="t4, a10, a100-80, h100, ... (default: this machine's GPU; without one, all known GPUs)",
    )
    parser.add_argument(
        "--num_gpus", type=int, metavar="N", help="number of GPUs, instead of `num_processes` in `accelerate_config`"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="rows of the dataset, if the data is not available")
    parser.add_argument(
        "--prompt_tokens", type=int, metavar="N", help="mean tokens per prompt, if the data is not available"
    )
    parser.add_argument(
        "--response_tokens", type=int, metavar="N", help="mean tokens per real response, if the data is not available"
    )
    for what, of_servers in (("training", ""), ("generation", ", or with `engine: server` of all servers together")):
        parser.add_argument(
            f"--{what}_tokens_per_second",
            dest=f"{what}_tokens",
            type=float,
            metavar="N",
            help=f"measured {what} tokens per second on one device{of_servers}",
        )


@quiet("spin_trl")  # warnings meant for a run that is being played do not apply to an estimate
def plan(options: argparse.Namespace, overrides: list[str]) -> None:
    """Show the plan."""
    quieten()
    from ..plan import devices, show
    from ..plan.engine import Here
    from ..plan.planning import Wishes, advise, make_plan, planned_recipe, uses_cpu
    from ..plan.show_engine import engine_lines
    from ..report import terminal
    from ..run.directory import RunDirectory

    on_cpu = options.gpu is None and uses_cpu(options.recipe, overrides)
    device = devices.device_named(options.gpu) if options.gpu else devices.this_cpu() if on_cpu else devices.own_gpu()
    wishes = Wishes(**{wish.name: getattr(options, wish.name) for wish in fields(Wishes)})
    console = terminal.console()
    run = RunDirectory(run_dir_of(planned_recipe(options.recipe, overrides), options.recipe, overrides))
    is_own_gpu = device is not None and device.is_gpu and not options.gpu
    here = Here(run, options.num_gpus or (devices.own_gpus() if is_own_gpu else None))
    found = make_plan(options.recipe, overrides, wishes, on_gpu=not on_cpu, here=here, device=device)
    show.show_model(console, found)
    show.show_judged(console, found)
    show.show_batch_size(console, found)
    show.show_judge(console, found.setup.play)
    console.print(show.memory_table(found, device))
    if device is None:
        console.print(show.devices_table(found, list(devices.DEVICES.values())))
        fitting = [one for one in devices.DEVICES.values() if found.fits(one) and found.obstacle(one) is None]
        shown = fitting[0] if fitting else devices.DEVICES["h200"]
        console.print(f"Hours and disk are for {shown.name}; choose another GPU with `--gpu NAME`.", style="dim")
    else:
        shown = device
    for line in engine_lines(found, shown):
        show.show_line(console, line)
    work = found.work(shown)
    console.print(show.hours_table(found, work))
    show.show_assumptions(console, found, shown, found.disk(work))
    if device is None:
        return
    fits, obstacle = found.fits(device), found.obstacle(device)
    advice, more_gpus = ([], None) if fits else advise(found, device.memory * 2**30)
    show.show_verdict(console, found, device, advice, more_gpus)
    if options.gpu and not (fits and obstacle is None):
        raise DoesNotFitError(obstacle if fits else f"The run does not fit on {device.name} with these settings.")
