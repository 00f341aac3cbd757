"""Publishing a run on the Hugging Face Hub: cards, the pairs as a dataset, pushes, and backups of the run directory."""
