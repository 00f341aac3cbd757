"""Files of a user become rows, exactly as they are written."""
