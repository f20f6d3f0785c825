"""What it takes to load and run a policy."""
