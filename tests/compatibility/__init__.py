"""Which models work, shown by trying a tiny one of every family: the README's table is made here."""
