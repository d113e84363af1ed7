"""Configs of experiments: one file for each row of the papers' tables and for each sweep."""
