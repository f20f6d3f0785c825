"""Actors that have not learned: the scripted expert, DAgger's mixture, and controls."""
