"""SmolLM2-135M-Instruct on SVAMP: weights, problems, arms and figures of `benchmarks/real_model.py`."""
