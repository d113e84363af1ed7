"""The networks: one family a file, `layers` that families share, `catalog` of names."""
