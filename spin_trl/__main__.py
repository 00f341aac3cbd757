"""`python -m spin_trl`, and with it `accelerate launch -m spin_trl`, is the `spin-trl` command."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # Python has put the current folder first, where a `json.py` of the user's would take the place of Python's own. It
        # stays, behind everything installed, for a checkout of this package that is not installed.
        sys.path.append(sys.path.pop(0))

    from .cli import main

    sys.exit(main())
