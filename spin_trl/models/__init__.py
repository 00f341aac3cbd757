"""Load policies the same way everywhere, and run one forward over the unique tokens of a batch."""
