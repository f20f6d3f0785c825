"""Stills as training data: each is asked for anew whenever it is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vla.demos.frames import Frames, FramesInMemory
from vla.demos.stills import COLLECT_STILLS, read_stills, stills_facts
from vla.errors import UserError
from vla.experts.idle import idle_action
from vla.policies.asking import Asker
from vla.policies.batch import Segment
from vla.policies.located import located_numbers
from vla.policies.network import Locates
from vla.policies.preprocess import ImageSpec, cut, cut_shape, proprioception
from vla.sim.config import EnvConfig


class StillDataset(Dataset[Segment]):
    """A segment of one frame and one window for each still.

    Only the first action of a chunk is known: the other ones are masked.
    """

    def __init__(
        self,
        path: Path,
        env_args: str,
        asker: Asker,
        observation_horizon: int,
        chunk_size: int,
        image: ImageSpec,
        margin_px: int,
        locates: Locates,
        frames: Frames | None = None,
    ) -> None:
        """Read the stills at `path`; the arguments are those of `LiftDataset`.

        Args:
            env_args: scene and simulator of the demonstrations beside which the stills are served.
            asker: draws the instructions.

        Raises:
            UserError: it is no whole file of stills of this version, or they come from another scene or simulator.
        """
        found, count = stills_facts(path)
        if found != env_args:
            raise UserError(
                f"{path} and the demonstrations come from different scenes or simulators; name the stills that were "
                f"collected with these demonstrations, or collect both anew: {COLLECT_STILLS} --output NEW_FILE"
            )
        if frames is None:
            side_px = EnvConfig.from_env_args(env_args).image_size_px
            frames = FramesInMemory(count, cut_shape((side_px, side_px, 3), image, margin_px))
        self._frames, self._first_frame = frames, len(frames)
        stills = read_stills(path, lambda images: frames.append(cut(torch.from_numpy(images), image, margin_px)))
        self._layouts, self._expert = stills.layouts, stills.expert_actions
        self._asker = asker
        self._shape = observation_horizon, chunk_size
        offsets = 10 * (stills.cubes_pos - stills.eef_pos[:, None])  # (N, 4, 3) decimetres
        self._offsets = offsets.astype(np.float32)
        self._proprioception = proprioception(stills.eef_pos, stills.gripper_qpos)
        self._locates = locates

    def __len__(self) -> int:
        return len(self._layouts)

    def __getitem__(self, index: int) -> Segment:
        layout = self._layouts[index]
        asked = self._asker.ask(layout)
        horizon, chunk_size = self._shape
        action, named = idle_action(), np.zeros((1, 4), dtype=np.float32)
        if asked.target is not None:
            action = self._expert[index, asked.target]
            named[0] = *self._offsets[index, asked.target], 1.0
        mask = torch.zeros(1, chunk_size, dtype=torch.bool)
        mask[:, 0] = True
        positions, present = self._located(index, asked.target)
        return Segment(
            frames=self._frames.read(self._first_frame + index, self._first_frame + index + 1),
            windows=torch.zeros(1, horizon, dtype=torch.long),
            actions=torch.from_numpy(action).expand(1, chunk_size, -1),
            mask=mask,
            positions=positions,
            present=present,
            named=torch.from_numpy(named),
            proprioception=torch.from_numpy(self._proprioception[index : index + 1]),
            instructions=[asked.instruction],
        )

    def _located(self, index: int, target: int | None) -> tuple[Tensor, Tensor]:
        """What the auxiliary head before the fusion locates: `Segment.positions` and `Segment.present`."""
        numbers: list[int | None] = []
        if self._locates == "target":
            numbers = [target]
        elif self._locates != "named":
            numbers = located_numbers(self._layouts[index])
        offsets = [self._offsets[index, number or 0] for number in numbers]
        opening = self._proprioception[index, -1:]
        present = torch.tensor([[number is not None for number in numbers]])
        return torch.from_numpy(np.concatenate([*offsets, opening]))[None], present
