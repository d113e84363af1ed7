"""What can be said about a network and its runs."""
