"""Closed-loop validation of a policy during its training, by the same verdict as an evaluation."""

from __future__ import annotations

from pathlib import Path

import torch

from vla.evaluation.episode import EpisodeResult, run_episode, summarise
from vla.evaluation.statistics import rate
from vla.experts.idle import IDLE_STEPS
from vla.policies.actor import PolicyActor
from vla.policies.asked import Asked, ask_counterfactuals
from vla.policies.instructions import instruction_for
from vla.policies.network import PolicyNetwork
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim import gl
from vla.sim.config import VALIDATION_SEEDS, EnvConfig
from vla.sim.env import Simulator
from vla.sim.table import table_layout


class RolloutValidation:
    """A few episodes on the first validation seeds; the eight instructions take turns, and in the scene
    cubes each scene has its own."""

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
        results = [self._run_episode(self._simulator, actor, index) for index in range(self._num_episodes)]
        print(f"rollouts: true success {rate(sum(result.success for result in results), len(results))}")
        invalid = [result.invalid_reason for result in results if result.invalid_reason is not None]
        if invalid:
            print(f"WARNING: {len(invalid)} of these {len(results)} are INVALID, the first because {invalid[0]}")
        return {f"rollout/{name}": value for name, value in summarise(results).items()}

    def _run_episode(self, simulator: Simulator, actor: PolicyActor, index: int) -> EpisodeResult:
        seed, asked = VALIDATION_SEEDS[index], Asked(instruction_for(index), target=0)
        if self._env.scene.kind == "cubes":
            (asked,) = ask_counterfactuals(table_layout(self._env.scene, seed), seed, 1)
        simulator.target = asked.target
        max_steps = self._max_steps if asked.target is not None else IDLE_STEPS
        video = self.video if index == 0 else None
        return run_episode(simulator, actor, asked.instruction, seed, max_steps, video).result

    def close(self) -> None:
        """Close the simulator."""
        if self._simulator is not None:
            self._simulator.close()
