"""`spin-trl compare`: play several objectives from the same start and compare them."""

from __future__ import annotations

import argparse
from typing import Any

from ..config.traits import EQUAL
from .commands import RECIPES, add_command, add_trust
from .failures import note_run_directory
from .session import quieten


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "compare", play_comparison, help="play several objectives and compare them", epilog=RECIPES
    )
    parser.add_argument("recipe", help="recipe or run directory")
    add_trust(parser)
    parser.add_argument(
        "--arms",
        nargs="+",
        required=True,
        metavar="ARM",
        help="losses (sigmoid space tspin spif iris ...), weighted sums (space+0.1*sft), or supervised arms (sft, "
        "sft-smoothing-0.1, sft-dft, sft-best); with DPO on top of a self-play arm, or of the start: 'sigmoid > dpo', "
        "'start > dpo' (in quotes)",
    )
    parser.add_argument(
        "--equal",
        choices=EQUAL,
        help="what supervised arms have in common with the first arm: the number of gradient steps, or the compute "
        "(default: the recipe's `baseline_equal`, which is steps unless set)",
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="number of seeds per arm (default: 1)")
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="number of arms that run at the same time, each on its own GPU (default: 1)",
    )
    parser.add_argument(
        "--arm_settings",
        metavar="JSON",
        help='settings for individual arms: `{"sigmoid": {"learning_rate": 1e-6}}`',
    )


def play_comparison(options: argparse.Namespace, overrides: list[str]) -> None:
    """Play the comparison."""
    quieten()
    from ..config.checks import as_mapping
    from ..play.comparison.compare import Comparison

    arm_settings = as_mapping("--arm_settings", options.arm_settings)
    if options.equal is not None:
        overrides = [*overrides, "--baseline_equal", options.equal]
    comparison = Comparison(
        options.recipe, overrides, options.arms, options.seeds, options.devices, arm_settings, options.trust_run
    )
    note_run_directory(comparison.folder)
    comparison.run()
