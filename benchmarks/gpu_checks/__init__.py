"""The checks of `benchmarks/gpu.py`: a module each, what a check is given (`check.py`), and what runs them (`runner.py`)."""
