"""DAgger (Ross et al. 2011): demonstrations that start from the states to which a policy's own mistakes lead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import instruction_embeddings, load_policy
from vla.sim.env import Observation
from vla.sim.rollout import Actor, Decision

POLICY_STEPS = (20, 100)
"""Range of the number of control steps for which the policy acts, upper end excluded; drawn for each episode."""


class DaggerActor:
    """First the policy acts and the expert labels each state; then the expert acts.

    Because the expert acts last, an episode can end in a lift and pass the verdict, like any other demonstration.
    """

    def __init__(self, policy: PolicyActor, expert: Actor) -> None:
        self._policy, self._expert = policy, expert

    @classmethod
    def load(cls, checkpoint: Path, expert: Actor) -> DaggerActor:
        """Load the policy of a checkpoint, to run on one thread of the CPU, as a simulator worker does."""
        torch.set_num_threads(1)
        device = torch.device("cpu")
        model, stored = load_policy(checkpoint, device)
        # The checkpoint holds the embeddings of all instructions of the scene lift; others need its text encoder.
        return cls(PolicyActor(model, instruction_embeddings(stored, "none"), device), expert)

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode; `seed` determines when the expert takes over."""
        self._policy.reset(instruction, seed)
        self._expert.reset(instruction, seed)
        self._policy_steps_left = int(np.random.default_rng([seed, 2]).integers(*POLICY_STEPS))

    def select_action(self, obs: Observation) -> Decision:
        """Returns the policy's action to execute with the expert's as the label; later, the expert's decision."""
        decision = self._expert.select_action(obs)
        if self._policy_steps_left == 0:
            return decision
        self._policy_steps_left -= 1
        return Decision(self._policy.select_action(obs).action, decision.label, decision.phase, source="policy")
