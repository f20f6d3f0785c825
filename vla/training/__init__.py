"""What the training script is built from."""
