"""Run the `spin-trl` command with `python -m spin_trl`, and thus with `accelerate launch -m spin_trl`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # Python puts the current folder first, where a user's `json.py` would shadow Python's own. Move it behind everything
        # installed, where it still serves a checkout of this package that is not installed.
        sys.path.append(sys.path.pop(0))

    from .cli import main

    sys.exit(main())
