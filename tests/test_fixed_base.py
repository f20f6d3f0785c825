"""The controller that looks up its base once moves the arm as robosuite's own does."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from vla.sim.env import Simulator


def _states(sim: Simulator, actions: np.ndarray) -> np.ndarray:
    """(episodes * steps, state) that the actions, (episodes, steps, 7), lead to from the seeds 0, 1, ..."""
    states = []
    for seed, episode in enumerate(actions):
        sim.reset(seed)
        for action in episode:
            sim.advance(action)
            states.append(sim.state())
    return np.stack(states)


def test_every_state_is_that_of_robosuites_own_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 20, 7))
    ours = Simulator(render_images=False)
    # It imports mujoco, which must come after the simulator's choice of a GL backend.
    fixed_base = importlib.import_module("vla.sim.fixed_base").FixedBase
    monkeypatch.setattr(fixed_base, "name", "BASIC")
    theirs = Simulator(render_images=False)
    assert [type(sim._env.robots[0].composite_controller) is fixed_base for sim in (ours, theirs)] == [True, False]
    assert np.array_equal(_states(ours, actions), _states(theirs, actions))


@pytest.mark.parametrize(("loads_torch", "loaded"), [(True, "True"), (False, "False")])
def test_a_worker_of_a_collection_without_a_policy_loads_no_torch(loads_torch: bool, loaded: str) -> None:
    program = (
        "import importlib, sys; importlib.import_module('1_collect_demos'); from vla.sim.env import Simulator; "
        f"Simulator(loads_torch={loads_torch}).render(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == loaded
