"""The loop: phases that speak to each other only through the run directory, and the journal that remembers them."""
