"""Analyses of networks and runs: size, cost on a target, feature reuse, figures."""
