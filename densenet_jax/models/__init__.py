"""What a network is: one family a file, `layers` they share, `catalog` of names."""
