"""One template, one end: conversations become text and tokens, and every text is proved to be in them."""
