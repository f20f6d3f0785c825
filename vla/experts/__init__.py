"""Actors that are not learned policies: the scripted expert, DAgger's mixture of both, and controls."""
