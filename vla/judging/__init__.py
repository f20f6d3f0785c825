"""The verdict on an episode, what it is judged from, and its checks: watch over the world, second judge, push test."""
