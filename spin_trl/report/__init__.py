"""Presents the results of a run: tables and plots for a terminal, and one HTML file."""
