"""From whatever SFT dataset a user has to rows of tokens: loaded, checked, prepared, and some held out."""
