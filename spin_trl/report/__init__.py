"""What a run found, for people: tables and plots for a terminal, and one HTML file."""
