"""The settings as a reference: their descriptions, collected from the code, as a list, in words and as a JSON schema."""
