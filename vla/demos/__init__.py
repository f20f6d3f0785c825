"""Demonstrations: the schema of their file, how they are recorded, and Table 2."""
