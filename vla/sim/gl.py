"""Chooses the OpenGL backend that MuJoCo draws with, by trying it.

`python -m vla.sim.gl` prints the backend that works here, or exits with 2 and says what to install.
"""

from __future__ import annotations

import os
import subprocess
import sys

from vla.errors import UserError

BACKENDS = ("egl", "osmesa")
_TRIED = "VLA_GL_TRIED"
INSTALL_HINT = "apt-get install -y libegl1 libgl1 libgl1-mesa-dri libglib2.0-0"
# cv2 as well: robosuite imports it, and it needs libGL and libglib.
_PROBE = (
    "import cv2, mujoco; m = mujoco.MjModel.from_xml_string('<mujoco/>');"
    "r = mujoco.Renderer(m, 16, 16); r.update_scene(mujoco.MjData(m)); r.render(); r.close()"
)


def select_backend() -> str:
    """Set `MUJOCO_GL` for this process and its children, and return it.

    Must run before `mujoco` is imported, because mujoco reads the variable at import. A value that
    the user has set is tried too, and never replaced.

    Raises:
        UserError: no backend, or not the one that the user has set, can draw on this machine.
    """
    wanted = os.environ.get("MUJOCO_GL")
    if wanted and wanted == os.environ.get(_TRIED):  # a parent process has tried it
        return wanted
    candidates = (wanted,) if wanted else BACKENDS
    chosen = next((name for name in candidates if _draws(name)), None)
    if chosen is None:
        how = (
            f"MUJOCO_GL={wanted} does not work" if wanted else f"no OpenGL backend works (tried {', '.join(BACKENDS)})"
        )
        raise UserError(f"{how} here, so no image can be drawn; run: {INSTALL_HINT}")
    os.environ["MUJOCO_GL"] = os.environ[_TRIED] = chosen
    os.environ["PYOPENGL_PLATFORM"] = chosen
    return chosen


def _draws(backend: str) -> bool:
    """Whether a fresh process can draw one frame; in a process of its own, because a bad driver crashes."""
    env = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], env=env, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    try:
        print(select_backend())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
