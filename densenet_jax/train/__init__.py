"""How a network learns: config, steps, the loop, checkpoints, the run record."""
