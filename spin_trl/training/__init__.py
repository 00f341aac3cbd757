"""One iteration: pairs, the opponent, and the trainer that prefers real responses over generated ones."""
