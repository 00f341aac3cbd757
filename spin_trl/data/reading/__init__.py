"""Read a user's files into rows, without changing any value."""
