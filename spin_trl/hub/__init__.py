"""What a run gives to the Hugging Face Hub: cards, pairs as a dataset, pushes, and backups of the run directory."""
