"""Datasets as their authors publish them, read into prompts and responses: `dataset_name` can name their functions."""
