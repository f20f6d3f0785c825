"""Evaluated episodes: how they are run, stored, compared and reported."""
