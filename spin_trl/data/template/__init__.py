"""One template, one end: render conversations as text and tokens, and verify that all of their texts are included."""
