"""The verdict on an episode, and what checks it."""
