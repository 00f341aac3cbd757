"""Before the first run: write a recipe for a model and a dataset, and show its rows as they will be tokenised."""
