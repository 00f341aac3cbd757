"""SPINTrainer is a drop-in for DPOTrainer: what the one accepts and does with preference data, so does the other."""
