"""What a plan promises: figures that were worked out by hand, and peaks that are measured."""
