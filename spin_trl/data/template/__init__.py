"""One template, one end: render conversations as text and tokens, and verify that every text of a conversation is included."""
