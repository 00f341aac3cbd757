"""The training objectives: the papers' losses, by the name of their loss type."""
