"""Stand-in for mujoco_py, the retired binding of MuJoCo: robomimic 0.3.0 imports it for one exception."""

from types import SimpleNamespace

import mujoco

builder = SimpleNamespace(MujocoException=mujoco.FatalError)
