"""Training of an iteration: the pairs, the opponent, and the trainer that prefers real responses to generated ones."""
