"""How the opponent answers: the engines that generate, the micro-batches they work on, and the store that keeps answers."""
