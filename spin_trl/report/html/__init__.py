"""The report of a run for people: `report.html`, one file."""
