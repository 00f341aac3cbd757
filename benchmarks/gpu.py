"""All GPU checks in a few minutes, the most important first: is training correct, how fast is it, what memory does it take?

Each check runs in a separate process with its own time limit, so a crash affects only that check. Every figure is appended
to `gpu.jsonl` as soon as it is known, the output of the checks goes to `gpu.log`, and a table is printed at the end.
Configurations, weights and tokenizers are created on the spot, so no network is needed. The script runs from a checkout
without installation.

    PYTHONPATH=. python benchmarks/gpu.py [--minutes 8] [--out FOLDER] [--only NAME ...] [--tiny] [--data FOLDER]

`--tiny` uses small shapes, to check within two minutes that everything runs: on a GPU all of it, on a CPU whatever works
there. To add a check, write a function in `gpu_checks/` that takes a `Session`, and list it in `gpu_checks/checks.py`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

# Set before the libraries that read them: no downloads, no progress bars.
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
    """Run the checks and print the table. Return 1 if a check failed or a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit for all checks together")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu"), help="folder of gpu.jsonl (tiny.jsonl) and gpu.log"
    )
    names = [check.name for check in CHECKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--tiny", action="store_true", help="small shapes")
    parser.add_argument(
        "--data", type=Path, help="folder with svamp/, and gsm8k/ and mbpp/ if present: for `pretrained`"
    )
    options = parser.parse_args()
    if options.minutes <= 0:
        parser.error("--minutes must be above 0.")
    chosen = [check for check in CHECKS if check.name in options.only]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running check, and shows the table
    try:
        data = options.data and options.data.resolve()
        fine = play(chosen, options.out.resolve(), minutes=options.minutes, tiny=options.tiny, data=data)
    finally:
        print(table_of(results_of(options.out, tiny=options.tiny)))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
