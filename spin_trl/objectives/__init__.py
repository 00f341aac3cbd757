"""What is minimised: the losses of the papers, by the name of their loss type."""
