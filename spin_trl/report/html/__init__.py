"""The report of a run as a single HTML file, `report.html`."""
