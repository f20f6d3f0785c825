"""DAgger (Ross et al. 2011): demonstrations of what to do where the policy's own mistakes lead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vla.experts.scripted import ExpertActor
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import instruction_embeddings, load_policy
from vla.sim.env import Observation
from vla.sim.rollout import Decision

POLICY_STEPS = (20, 100)
"""Control steps for which the policy acts: drawn for each episode, the last one excluded."""


class DaggerActor:
    """The policy acts and the expert says what it would have done; then the expert takes over.

    So every episode can end in a lift and pass the verdict, like any other demonstration.
    """

    def __init__(self, policy: PolicyActor, expert: ExpertActor) -> None:
        self._policy, self._expert = policy, expert

    @classmethod
    def load(cls, checkpoint: Path, expert: ExpertActor) -> DaggerActor:
        """With the policy of a checkpoint, on one thread of the CPU, as in a simulator worker."""
        torch.set_num_threads(1)
        device = torch.device("cpu")
        model, stored = load_policy(checkpoint, device)
        # Demonstrations speak the training instructions only: their embeddings travel in the checkpoint.
        return cls(PolicyActor(model, instruction_embeddings(stored, "none"), device), expert)

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode; `seed` draws when the expert takes over."""
        self._policy.reset(instruction, seed)
        self._expert.reset(instruction, seed)
        self._policy_steps_left = int(np.random.default_rng([seed, 2]).integers(*POLICY_STEPS))

    def select_action(self, obs: Observation) -> Decision:
        """The expert's action as the label; the policy's to execute, until the expert takes over."""
        answer = self._expert.select_action(obs)
        if self._policy_steps_left == 0:
            return answer
        self._policy_steps_left -= 1
        return Decision(self._policy.select_action(obs).action, answer.label, answer.phase, source="policy")
