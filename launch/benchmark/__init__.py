"""Training steps of this project's network and of its peers, side by side."""
