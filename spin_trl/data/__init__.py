"""Turn any SFT dataset into rows of tokens: load it, check it, prepare its rows, and hold some out."""
