"""All that is worth knowing on a GPU, in order of worth, in a few minutes: is training right, how fast, in how much memory?

Each check runs in a process of its own with a time limit of its own, so a crash costs only the check that crashed. Every
figure is appended to `gpu.jsonl` as soon as it is known, what the checks print goes to `gpu.log`, and a table comes last.
Configurations, weights and tokenizers are made on the spot, so no network is needed. The script runs from a checkout that is
not installed.

    PYTHONPATH=. python benchmarks/gpu.py [--minutes 7] [--out FOLDER] [--only NAME ...] [--tiny]

`--tiny` plays small shapes, to see within two minutes that everything runs: on a CPU what a CPU can, on a GPU all of it. To
add a check, write a function in `gpu_checks/` that takes a `Session`, and list it in `gpu_checks/checks.py`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

# Before the libraries that read them: nothing is fetched, nothing is drawn.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

from gpu_checks.runner import play, results_of, table_of, without_driver

with without_driver():  # the stack is imported here
    from gpu_checks.checks import CHECKS


def main() -> int:
    """Play the checks and print the table. Returns 1 if one did not end well, or a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.0, help="for all checks together")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu"), help="folder of gpu.jsonl (tiny.jsonl) and gpu.log"
    )
    names = [check.name for check in CHECKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--tiny", action="store_true", help="small shapes")
    options = parser.parse_args()
    if options.minutes <= 0:
        parser.error("--minutes must be above 0.")
    chosen = [check for check in CHECKS if check.name in options.only]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the check that is played, and shows the table
    try:
        fine = play(chosen, options.out.resolve(), minutes=options.minutes, tiny=options.tiny)
    finally:
        print(table_of(results_of(options.out, tiny=options.tiny)))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
