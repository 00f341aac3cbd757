"""Generation of the opponent's answers: the engines, their micro-batches, and the store that keeps the answers."""
