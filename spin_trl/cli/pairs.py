"""`spin-trl pairs`: make preference pairs from a model's own samples of the training prompts, ranked by a scorer."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..counts import counted
from ..files import home_expanded
from ..report.terminal import printable, shown_path
from .commands import add_command, add_trust
from .failures import rank
from .session import quieten

_WHAT_IT_MAKES = """\
Sample several answers to each training prompt of a run, finished or not, and let a scorer rate them: the best answer is
chosen, the worst is rejected, one pair per prompt. Prompts whose samples all have the same score give no pair. The result
is a dataset for TRL's DPOTrainer; its pairs are model samples ranked by the scorer, not human preferences. Held-out and
test prompts are never used. Run the same command again to resume after an interruption.
"""


def add(commands: Any) -> None:
    """Add the command."""
    what = "make preference pairs from a model's own samples, ranked by a scorer"
    parser = add_command(commands, "pairs", make_pairs, help=what, description=_WHAT_IT_MAKES)
    parser.add_argument("run", help="run directory")
    parser.add_argument(
        "--scorer",
        metavar="NAME",
        help="scorer that ranks the samples, named as in a recipe (default: the run's own `scorer`)",
    )
    parser.add_argument(
        "--rubric", metavar="FILE", help="rubric for `--scorer rubric` (default: the run's own `rubric`)"
    )
    parser.add_argument(
        "--score",
        metavar="NAME",
        help="the number that ranks the samples, if the scorer returns several (default: the first)",
    )
    parser.add_argument(
        "--stage",
        default="best",
        help="the stage whose model is sampled: best (default), last, start, iteration-2, ...",
    )
    parser.add_argument(
        "--num_generations", type=int, default=8, metavar="N", help="samples per prompt, at least 2 (default: 8)"
    )
    parser.add_argument(
        "--max_prompts", type=int, metavar="N", help="use only N prompts, drawn at random (default: all)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="random seed (default: the run's own `seed`)")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder to write to (default: pairs/SCORER-STAGE in the run directory)",
    )
    add_trust(parser)


def make_pairs(options: argparse.Namespace, overrides: list[str]) -> None:
    """Make the pairs, and show what they are."""
    quieten()
    from ..play.pairs_from_samples import PairsWanted, make_scored_pairs, open_with_scorer

    run = open_with_scorer(options.run, overrides, options.scorer, options.rubric, trust_run=options.trust_run)
    if run.args.disable_tqdm:
        os.environ["TQDM_DISABLE"] = "1"
    same = ("score", "stage", "num_generations", "max_prompts", "seed")
    wanted = PairsWanted(run.play.scorer or (), **{name: getattr(options, name) for name in same})
    output: Path | None = home_expanded(options.output) if options.output else None
    folder, found = make_scored_pairs(run, wanted, output, trust_run=options.trust_run)
    if rank() != "0":
        return
    number = f" ({found.score})" if found.score else ""
    lines = [
        f"{counted(found.pairs, 'pair')} from {counted(found.prompts, 'prompt')} of the run {found.run}: "
        f"{wanted.num_generations} samples each from {found.stage}, ranked by {', '.join(found.scorer)}{number}.",
        f"Prompts without a pair: {found.without_pair['equal']} whose samples all have the same score, "
        f"{found.without_pair['identical']} whose best and worst sample are the same text, "
        f"{found.without_pair['unscored']} with fewer than two samples that have a score.",
    ]
    if found.mean_score is not None:
        lines.append(f"Mean score of the samples: {found.mean_score:.4g}")
    if found.truncated["chosen"]:
        cut = counted(found.truncated["chosen"], "chosen response was", "chosen responses were")
        lines.append(f"{cut} truncated at the length limit (`max_new_tokens`, `max_length`).")
    for line in lines:
        print(printable(line))
    print(f"Pairs: {shown_path(folder)}")
