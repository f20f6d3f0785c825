"""Trains LeRobot's ACT on our demonstrations and evaluates it in our simulator, by our verdict.

It has the settings of LeRobot's configuration of ACT, which are those of its paper (chunks of 100 actions that are all
executed, a VAE, AdamW 1e-5, batches of 8), and sees the whole picture and the robot's state. Only ResNet18 begins from
scratch, as ours does, and not with ImageNet's weights. ACT takes no instruction. Reads the HDF5 file of demonstrations,
and the evaluation of the shipped policy. Writes the demonstrations as a LeRobotDataset, and the result file; prints the
table. Runs in the environment of `make lerobot`.

    runs/lerobot/.venv/bin/python benchmarks/act_peer.py --minutes 20
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import PeerOptions, Training, judge_peer, peers_table, shipped_episodes
from scripts import run_stage
from torch import nn
from torch.utils.data import DataLoader

from vla.demos.hdf5_checks import attribute_text
from vla.demos.lerobot_layout import ACTION_KEY, IMAGE_KEY, STATE_KEY, robot_state
from vla.demos.schema import open_demos
from vla.errors import UserError, run_script
from vla.files import write_text
from vla.sim import gl
from vla.sim.env import Observation
from vla.sim.rollout import Decision

REPO_ID = "local/act_demos"
BATCH = 8
"""Frames in a batch, as LeRobot's training has."""
MAX_GRADIENT_NORM = 10.0
"""Likewise."""


@dataclass(frozen=True)
class ActOptions(PeerOptions):
    """Options of the comparison."""

    work_dir: Path = Path("runs/act_peer")
    """Folder for the demonstrations in LeRobot's layout; one that is there is used again."""
    output: Path = Path("docs/results/act.json")
    """Result file."""


def main(options: ActOptions) -> None:
    try:
        import lerobot
    except ImportError:
        raise UserError("LeRobot is not installed here; make its environment with: make lerobot") from None
    gl.select_backend()
    torch.manual_seed(options.seed)
    dataset_folder = options.work_dir / f"demos-{options.num_demos}"
    if not dataset_folder.exists():
        run_stage(
            *("integrations/lerobot/export.py", "--data", options.data.resolve(), "--split", "train"),
            *("--num-demos", options.num_demos, "--repo-id", REPO_ID, "--output", dataset_folder.resolve()),
        )
    actor, steps, loss = _train(dataset_folder, options.minutes)
    training = Training(
        *(f"LeRobot {lerobot.__version__}", "ACT", options.num_demos, options.data, options.minutes),
        *(steps, BATCH, loss),
    )
    with open_demos(options.data) as file:
        env_args = attribute_text(file["data"].attrs["env_args"])
    result = judge_peer(actor, env_args, training, options.num_episodes, options.max_steps)
    write_text(options.output, json.dumps(result, indent=1))
    print(peers_table([result], shipped_episodes()))


def _train(folder: Path, minutes: float) -> tuple[ActActor, int, float]:
    """Train ACT with LeRobot's parts until the time is up; returns it, its steps and its last training loss."""
    from lerobot.configs.types import FeatureType
    from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
    from lerobot.datasets.utils import dataset_to_policy_features
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    meta = LeRobotDatasetMetadata(REPO_ID, root=folder)
    features = dataset_to_policy_features(meta.features)
    config = ACTConfig(
        input_features={key: one for key, one in features.items() if one.type is not FeatureType.ACTION},
        output_features={key: one for key, one in features.items() if one.type is FeatureType.ACTION},
        pretrained_backbone_weights=None,
        device="cpu",
        push_to_hub=False,
    )
    chunk = [index / meta.fps for index in config.action_delta_indices]
    dataset = LeRobotDataset(REPO_ID, root=folder, delta_timestamps={ACTION_KEY: chunk})
    policy = ACTPolicy(config)
    before, after = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    preset = config.get_optimizer_preset()
    optimiser = torch.optim.AdamW(policy.get_optim_params(), lr=preset.lr, weight_decay=preset.weight_decay)
    policy.train()
    start, steps, loss = time.perf_counter(), 0, float("nan")
    while True:
        for batch in DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True):
            total, _ = policy.forward(before(batch))
            optimiser.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), MAX_GRADIENT_NORM)
            optimiser.step()
            steps, loss = steps + 1, float(total.detach())
            passed = time.perf_counter() - start
            if steps % 50 == 0:
                print(f"{passed / 60:.1f} min | step {steps} | loss {loss:.3f}", flush=True)
            if passed >= 60 * minutes:
                return ActActor(policy, before, after), steps, loss


class ActActor:
    """LeRobot's ACT as an `Actor`."""

    def __init__(self, policy: Any, before: Any, after: Any) -> None:
        """Hold a trained policy with the processors before and after it."""
        self._policy = policy.eval()
        self._before, self._after = before, after

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode."""
        self._policy.reset()

    @torch.inference_mode()
    def select_action(self, obs: Observation) -> Decision:
        """Choose the next action from the whole picture and the robot's state."""
        image = torch.from_numpy(obs.image).permute(2, 0, 1).float() / 255  # (3, H, W)
        state = torch.from_numpy(robot_state(obs.eef_pos, obs.eef_quat, obs.gripper_qpos))
        action = self._after(self._policy.select_action(self._before({IMAGE_KEY: image, STATE_KEY: state})))
        clipped = np.clip(action.squeeze(0).numpy(), -1, 1).astype(np.float32)
        return Decision(clipped, clipped, phase="policy")


if __name__ == "__main__":
    run_script(main, ActOptions, __doc__)
