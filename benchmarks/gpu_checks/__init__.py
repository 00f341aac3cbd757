"""The checks of `benchmarks/gpu.py`: one module per check, their interface (`check.py`), and their runner (`runner.py`)."""
