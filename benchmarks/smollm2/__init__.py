"""SmolLM2-135M-Instruct on SVAMP: problems, arms and figures of `benchmarks/real_model.py`."""
