"""An actor that is told something else on the way."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from vla.evaluation.asked_episodes import Switch
from vla.judging.evidence import Evidence
from vla.judging.thresholds import Thresholds
from vla.policies.actor import PolicyActor
from vla.sim.env import Observation, Simulator
from vla.sim.rollout import Actor, Decision


class SwitchingActor:
    """Follows one instruction and then another.

    The simulator's target is that of the second instruction from the beginning, because the verdict is about it. Until
    the switch, the actor is shown the evidence of the first target; of all actors, only the expert goes by it.
    """

    def __init__(self, sim: Simulator, actor: Actor, switch: Switch, embedding: np.ndarray | None) -> None:
        """Let `actor` act in `sim`; `embedding`, (dim,), is that of the second instruction, for a policy."""
        self._sim, self._actor, self._switch = sim, actor, switch
        self._embedding = embedding
        self._limits = Thresholds()
        self._step = 0
        self.switched_step: int | None = None
        """Control step before which the second instruction was given; None: it was not given yet."""

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode with the first instruction."""
        self._actor.reset(instruction, seed)
        self._step, self.switched_step = 0, None

    def select_action(self, obs: Observation) -> Decision:
        """Returns the actor's action, after the second instruction where it is due."""
        if self.switched_step is None:
            first = self._evidence_of_first()
            if self._is_due(first):
                self.switched_step = self._step
                if isinstance(self._actor, PolicyActor) and self._embedding is not None:
                    self._actor.set_instruction(torch.from_numpy(self._embedding))
            else:
                obs = dataclasses.replace(obs, evidence=first)
        self._step += 1
        return self._actor.select_action(obs)

    def _is_due(self, first: Evidence) -> bool:
        if self._switch.step is None:
            return first.is_grasped(self._limits)
        return self._step >= self._switch.step

    def _evidence_of_first(self) -> Evidence:
        """The evidence of the present state for the target of the first instruction."""
        named, self._sim.target = self._sim.target, self._switch.first_target
        try:
            return self._sim.evidence()
        finally:
            self._sim.target = named
