"""How one forward runs over the unique tokens of a batch: where they lie, what they see, and what the head scores."""
