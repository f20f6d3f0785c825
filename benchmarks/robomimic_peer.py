"""Trains robomimic's behavioural cloning on our demonstrations and evaluates it in our simulator, by our verdict.

It has the settings of robomimic's published image experiments (ResNet18, spatial softmax, random crops, GMM policy,
Adam 1e-4, batch of 16) and sees what our policy sees: the region of interest of the one camera. It gets no instruction,
because it has no input for one. Its test seeds are the first ones of docs/results/shipped.json, the evaluation of the
shipped policy that it is compared with. Reads the HDF5 file of demonstrations and that evaluation. Writes the result
file and prints the table. `make peer` makes an environment of its own: robomimic is not in requirements.txt.

    python benchmarks/robomimic_peer.py --minutes 20
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from peers import PeerOptions, Training, judge_peer, peers_table, shipped_episodes
from scripts import ROOT
from torch.utils.data import DataLoader
from tqdm import tqdm

from vla.demos.schema import checked_demos, demo_names, open_demos
from vla.errors import UserError, run_script
from vla.files import atomic_path, write_text
from vla.policies.preprocess import cut
from vla.sim import gl
from vla.sim.env import Observation
from vla.sim.rollout import Decision
from vla.training.recipes import RECIPES

IMAGE = RECIPES["cpu"].image
CAMERA = "agentview_image"
SETTINGS = ROOT / "integrations/robomimic/bc_image.json"
CROP_PX = 116
"""Of 128: the share that robomimic crops from its own 84 px pictures (76)."""


@dataclass(frozen=True)
class RobomimicOptions(PeerOptions):
    """Options of the comparison."""

    work_dir: Path = Path("runs/peer")
    """Folder for the demonstrations in robomimic's layout."""
    output: Path = Path("docs/results/peer.json")
    """Result file."""


def main(options: RobomimicOptions) -> None:
    try:
        import robomimic
    except ImportError:
        raise UserError("robomimic is not installed here; run this with: make peer") from None
    gl.select_backend()
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # robomimic draws its crops from this generator
    data, env_args = _convert(options)
    config = _config(data)
    model, steps, loss = _train(config, data, options)
    training = Training(
        f"robomimic {robomimic.__version__}",
        "BC-GMM, image",
        options.num_demos,
        options.data,
        options.minutes,
        steps,
        config.train.batch_size,
        loss,
    )
    result = judge_peer(PeerActor(model), env_args, training, options.num_episodes, options.max_steps)
    write_text(options.output, json.dumps(result, indent=1))
    print(peers_table([result], shipped_episodes()))


def _convert(options: RobomimicOptions) -> tuple[Path, str]:
    """Write the training demonstrations in robomimic's layout, cut to what our policy sees; also return `env_args`."""
    path = options.work_dir / "demos.hdf5"
    options.work_dir.mkdir(parents=True, exist_ok=True)
    with open_demos(options.data) as source, atomic_path(path) as temporary, h5py.File(temporary, "w") as target:
        names = demo_names(source, "train")[: options.num_demos]
        if len(names) < options.num_demos:
            raise UserError(
                f"{options.data} holds {len(names)} training demonstrations, asked for {options.num_demos}; "
                "collect more with: python 1_collect_demos.py --num-episodes 150 --output ANOTHER_FILE"
            )
        data = target.create_group("data")
        env_args = str(source["data"].attrs["env_args"])
        data.attrs["env_args"] = env_args
        for name, demo in tqdm(checked_demos(source, names), total=len(names), unit="demo", desc="convert"):
            copy = data.create_group(name)
            images = cut(torch.from_numpy(demo["images"][:]), IMAGE)
            copy.create_dataset(f"obs/{CAMERA}", data=images.numpy())
            for key in ("actions", "rewards", "dones"):
                copy.create_dataset(key, data=demo[key][:])
            copy.attrs["num_samples"] = len(images)
    return path, env_args


def _config(data: Path) -> Any:
    """robomimic's published settings for images, with a smaller crop."""
    from robomimic.config import config_factory

    config = config_factory("bc")
    with config.values_unlocked():
        config.update(json.loads(SETTINGS.read_text()))
        config.train.data = str(data)
        config.train.hdf5_cache_mode = "all"
        crop = config.observation.encoder.rgb.obs_randomizer_kwargs
        crop.crop_height = crop.crop_width = CROP_PX
    return config


def _train(config: Any, data: Path, options: RobomimicOptions) -> tuple[Any, int, float]:
    """Train with robomimic's own loop until the time is up; return the model, its steps and its last training loss."""
    from robomimic.algo import algo_factory
    from robomimic.utils import obs_utils, train_utils
    from robomimic.utils.dataset import SequenceDataset

    obs_utils.initialize_obs_utils_with_config(config)
    dataset = SequenceDataset(
        str(data),
        obs_keys=(CAMERA,),
        dataset_keys=("actions", "rewards", "dones"),
        hdf5_cache_mode="all",
        hdf5_use_swmr=False,
        load_next_obs=False,
    )
    loader = DataLoader(dataset, batch_size=config.train.batch_size, shuffle=True, drop_last=True)
    size = IMAGE.size_px
    shapes = {CAMERA: (3, size, size)}
    model = algo_factory("bc", config, obs_key_shapes=shapes, ac_dim=7, device=torch.device("cpu"))
    start, steps, epoch, loss = time.perf_counter(), 0, 0, float("nan")
    epoch_steps = 50
    while time.perf_counter() - start < 60 * options.minutes:
        epoch += 1
        log = train_utils.run_epoch(model, loader, epoch, num_steps=epoch_steps)
        steps += epoch_steps
        loss = float(log["Loss"])
        print(f"{(time.perf_counter() - start) / 60:.1f} min | step {steps} | loss {loss:.3f}", flush=True)
    return model, steps, loss


class PeerActor:
    """robomimic's policy as an `Actor`."""

    def __init__(self, model: Any) -> None:
        from robomimic.algo import RolloutPolicy

        self._policy = RolloutPolicy(model)

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode."""
        self._policy.start_episode()

    def select_action(self, obs: Observation) -> Decision:
        """Choose the next action from the same region of the image as our policy."""
        from robomimic.utils import obs_utils

        region = cut(torch.from_numpy(obs.image)[None], IMAGE)[0].numpy()
        action = self._policy({CAMERA: obs_utils.process_obs(region, obs_key=CAMERA)})
        clipped = np.clip(action, -1, 1).astype(np.float32)
        return Decision(clipped, clipped, phase="policy")


if __name__ == "__main__":
    run_script(main, RobomimicOptions, __doc__)
