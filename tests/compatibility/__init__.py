"""Shows which models work, by trying a tiny one of every family; this generates the table of docs/reference/models.md."""
