"""The simulator: robosuite's Lift, perturbations of it, its worker processes and the rollout loop."""
