"""The verdict on an episode, the measurements behind it, and the checks of it: a second judge and a push test."""
