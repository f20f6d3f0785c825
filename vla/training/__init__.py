"""Modules of the training script (4_train.py): recipes, data of a run, its identity, its state and its records."""
