"""The simulator: robosuite's Lift, its perturbations, its worker processes and the rollout loop."""
