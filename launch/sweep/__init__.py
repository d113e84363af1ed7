"""Runs many configs from one definition, on this machine, a cluster or a cloud."""
