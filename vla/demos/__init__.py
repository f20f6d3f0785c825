"""The file of demonstrations: its schema, its recorder and Table 2."""
