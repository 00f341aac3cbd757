"""A policy, loaded the same way everywhere, and one forward over the unique tokens of a batch."""
