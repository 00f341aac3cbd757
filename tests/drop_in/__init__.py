"""SPINTrainer is a drop-in for DPOTrainer: it accepts the same preference data, and does the same with it."""
