"""`python -m spin_trl`, and with it `accelerate launch -m spin_trl`, is the `spin-trl` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
