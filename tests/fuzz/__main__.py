"""`make fuzz`: try many inputs, and print failures and a table. `make fuzz FUZZ='--only 17'` repeats one.

Options are in `make fuzz FUZZ=--help`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest  # noqa: F401 - nothing is fetched: before any library of Hugging Face is imported
from fuzz.session import main

if __name__ == "__main__":
    sys.exit(main())
