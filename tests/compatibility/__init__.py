"""Which models work, shown by trying a tiny one of every family: the table of docs/reference/models.md is made here."""
