"""robosuite's Lift as it comes, in a process of its own: two GL contexts cannot share one (`bench.py`)."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from vla.sim import gl
from vla.sim.config import EnvConfig

STILL = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)
"""An action that keeps the arm where it is."""


class PlainRobosuite:
    """robosuite with its own observation loop, its own camera, and resets that build the model anew."""

    def __init__(self, config: EnvConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, config), daemon=True)
        self._process.start()
        self.hard_reset()

    def step(self) -> None:
        """Make a control step with its observation, which has a picture."""
        self._ask("step")

    def draw(self) -> None:
        """Draw a picture."""
        self._ask("draw")

    def hard_reset(self) -> None:
        """Build the model anew, and begin an episode."""
        self._ask("reset")

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()

    def _ask(self, what: str) -> None:
        self._pipe.send(what)
        self._pipe.recv()


def _serve(pipe: Connection, config: EnvConfig) -> None:
    logging.disable(logging.WARNING)  # robosuite reports every controller that it loads
    gl.select_backend()
    env = _make(config)
    calls = {
        "step": lambda: env.step(STILL),
        "reset": env.reset,
        "draw": lambda: env.sim.render(
            camera_name=config.camera, width=config.image_size_px, height=config.image_size_px
        ),
    }
    while (what := pipe.recv()) is not None:
        calls[what]()
        pipe.send(None)
    env.close()


def _make(config: EnvConfig) -> Any:
    robosuite: Any = importlib.import_module("robosuite")
    return robosuite.make(
        "Lift",
        robots=config.robot,
        control_freq=config.control_freq_hz,
        horizon=config.horizon_steps,
        ignore_done=True,
        hard_reset=True,
        use_camera_obs=True,
        camera_names=config.camera,
        camera_heights=config.image_size_px,
        camera_widths=config.image_size_px,
        has_renderer=False,
        has_offscreen_renderer=True,
        renderer="mujoco",
        seed=config.model_seed,
    )
