"""Runs three scripts of an unmodified robomimic on a file of demonstrations, and stops at the first that fails.

They are `get_dataset_info`, `playback_dataset` (the stored pictures, then the stored states in robomimic's own
environment) and `train` (behavioural cloning from images; a few steps and a short rollout, which show that it runs).
Reads the HDF5 file of demonstrations. Writes two videos, the settings of the training and what it left into a folder.
`make robomimic` makes the environment in which this runs.

    runs/robomimic/.venv/bin/python integrations/robomimic/run_scripts.py
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from vla.demos.schema import open_demos  # noqa: E402
from vla.errors import UserError, run_script  # noqa: E402
from vla.files import write_text  # noqa: E402
from vla.sim import gl  # noqa: E402 (the package stands above this folder)

SETTINGS = Path(__file__).with_name("bc_image.json")
CAMERA = "agentview_image"
TRAINED = "finished run successfully!"
"""Last line of a training that did not fail; robomimic's exit code is 0 in both cases."""
NO_ROLLOUT = "got rollout exception"
"""What a training says, and goes on, when its rollout failed. robomimic makes the environment anew for each, and
robosuite 1.5.2, when it frees the GL context of the old one, sometimes takes away the new one's, too."""
ATTEMPTS = 3


@dataclass(frozen=True)
class RobomimicOptions:
    """Options of robomimic's scripts."""

    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations; it is only read."""
    num_demos: int = 3
    """Demonstrations to play back, the first ones."""
    steps: int = 5
    """Training steps of 16 frames."""
    rollout_steps: int = 20
    """Control steps of the one rollout after the training, in robomimic's environment."""
    output_dir: Path = Path("runs/robomimic")
    """Folder for the videos, the settings and the training. Videos and settings are overwritten."""


def main(options: RobomimicOptions) -> None:
    if importlib.util.find_spec("robomimic") is None:
        raise UserError("robomimic is not installed here; make its environment with: make robomimic")
    with open_demos(options.data):  # one of this project, of the present schema
        pass
    gl.select_backend()
    folder = options.output_dir.resolve()
    settings = folder / "bc_image.json"
    write_text(settings, json.dumps(_settings(options, folder), indent=4))
    playback = ("playback_dataset", "--dataset", options.data, "--n", options.num_demos, "--video_path")
    _run("get_dataset_info", "--dataset", options.data)
    _run(*playback, folder / "pictures.mp4", "--use-obs", "--render_image_names", CAMERA)
    _run(*playback, folder / "states.mp4")
    for _ in range(ATTEMPTS):
        said = _run("train", "--config", settings, "--dataset", options.data, expect=TRAINED)
        if NO_ROLLOUT not in said:
            break
    else:
        raise UserError(f"robomimic's rollout failed {ATTEMPTS} times, and says why above ({NO_ROLLOUT!r})")
    print(f"{folder}: pictures.mp4, states.mp4, bc_image.json, trained/")


def _settings(options: RobomimicOptions, folder: Path) -> dict[str, Any]:
    """The settings of the training: those of `bc_image.json`, made short. robomimic reads a relative folder as one of
    its own package, so it gets a whole path."""
    settings: dict[str, Any] = json.loads(SETTINGS.read_text())
    settings["train"] |= {"num_epochs": 1, "output_dir": str(folder / "trained")}
    settings["experiment"] |= {
        "name": "bc_image",
        "epoch_every_n_steps": options.steps,
        "validation_epoch_every_n_steps": 1,
        "save": {"every_n_epochs": 1},
        "rollout": {"n": 1, "horizon": options.rollout_steps, "rate": 1},
    }
    return settings


def _run(script: str, *arguments: object, expect: str = "") -> str:
    """Run a script of robomimic; return its output, which must hold `expect`.

    Raises:
        UserError: it failed.
    """
    command = [sys.executable, "-m", f"robomimic.scripts.{script}", *(str(argument) for argument in arguments)]
    print(f"$ python {' '.join(command[1:])}", flush=True)
    no = "n\n"  # where there is an earlier training, robomimic asks whether to delete it
    done = subprocess.run(command, input=no, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout, flush=True)
    if done.returncode or expect not in done.stdout:
        raise UserError(f"robomimic's {script} failed, and says why above; mend that, and run this again")
    return done.stdout


if __name__ == "__main__":
    run_script(main, RobomimicOptions, __doc__)
