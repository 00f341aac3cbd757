"""Human review: the page on which people compare answers without knowing whose they are, and their votes."""
