"""Closed-loop validation of a policy during its training, by the same verdict as an evaluation."""

from __future__ import annotations

from pathlib import Path

import torch

from vla.evaluation.episode import run_episode, summarise
from vla.evaluation.statistics import rate
from vla.policies.actor import PolicyActor
from vla.policies.instructions import instruction_for
from vla.policies.network import PolicyNetwork
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim import gl
from vla.sim.config import VALIDATION_SEEDS, EnvConfig
from vla.sim.env import Simulator


class RolloutValidation:
    """A few episodes on the first validation seeds; the eight instructions take turns."""

    def __init__(self, env: EnvConfig, num_episodes: int, max_steps: int, video: Path) -> None:
        """Prepare episodes of at most `max_steps`; `video` (MP4) shows the first episode of the latest validation.

        Raises:
            UserError: no OpenGL backend works here. Raised now, so that no epoch is trained in vain.
        """
        gl.select_backend()
        self._env, self._num_episodes, self._max_steps, self.video = env, num_episodes, max_steps, video
        self._simulator: Simulator | None = None

    def run(self, model: PolicyNetwork, embeddings: InstructionEmbeddings, device: torch.device) -> dict[str, float]:
        """Run the episodes with `model` (in eval mode); returns the rates of `summarise` under `rollout/...`."""
        if self._simulator is None:
            self._simulator = Simulator(self._env)
        actor = PolicyActor(model, embeddings, device)
        results = [
            run_episode(
                self._simulator,
                actor,
                instruction_for(index),
                VALIDATION_SEEDS[index],
                self._max_steps,
                self.video if index == 0 else None,
            ).result
            for index in range(self._num_episodes)
        ]
        print(f"rollouts: true success {rate(sum(result.success for result in results), len(results))}")
        invalid = [result.invalid_reason for result in results if result.invalid_reason is not None]
        if invalid:
            print(f"WARNING: {len(invalid)} of these {len(results)} are INVALID, the first because {invalid[0]}")
        return {f"rollout/{name}": value for name, value in summarise(results).items()}

    def close(self) -> None:
        """Close the simulator."""
        if self._simulator is not None:
            self._simulator.close()
