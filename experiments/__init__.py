"""What to run: one config a row of the papers' tables."""
