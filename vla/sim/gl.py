"""Chooses the OpenGL backend that MuJoCo renders with, by trying it.

`python -m vla.sim.gl` prints the backend that works here, or exits with 2 and says what to install. Only Linux has been
tested; on macOS and Windows the backend is the one that MuJoCo names for that system.
"""

from __future__ import annotations

import os
import subprocess
import sys

from vla.errors import UserError

BACKENDS = {"darwin": ("cgl",), "win32": ("wgl",)}.get(sys.platform, ("egl", "osmesa"))
"""Backends of this operating system, in the order in which they are tried."""
INSTALL_HINT = "apt-get install -y libegl1 libgl1 libgl1-mesa-dri libglib2.0-0"
"""Installs what rendering needs on Debian and Ubuntu."""
_TRIED = "VLA_GL_TRIED"
"""Environment variable that tells child processes which backend this process has tried."""
# The probe imports cv2 too: robosuite imports it, and it needs libGL and libglib.
_PROBE = (
    "import cv2, mujoco; m = mujoco.MjModel.from_xml_string('<mujoco/>');"
    "r = mujoco.Renderer(m, 16, 16); r.update_scene(mujoco.MjData(m)); r.render(); r.close()"
)
_process_with_context: int | None = None
"""PID of the process that made the first OpenGL context; a forked process inherits the number."""


def select_backend() -> str:
    """Set `MUJOCO_GL` for this process and its children, and return it.

    Call it before `mujoco` is imported, because mujoco reads the variable at import. A value that the user has set is
    tried as well, and never replaced.

    Raises:
        UserError: no backend, or not the one that the user has set, can render on this machine.
    """
    wanted = os.environ.get("MUJOCO_GL")
    if wanted and wanted == os.environ.get(_TRIED):  # a parent process has tried it
        return wanted
    candidates = (wanted,) if wanted else BACKENDS
    chosen = next((name for name in candidates if _renders(name)), None)
    if chosen is None:
        tried = ", ".join(BACKENDS)
        failed = f"MUJOCO_GL={wanted} does not work here" if wanted else f"no OpenGL backend works here (tried {tried})"
        raise UserError(f"{failed}, so no image can be rendered; {_remedy()}")
    os.environ.update(_variables(chosen))
    os.environ[_TRIED] = chosen
    return chosen


def claim_process() -> None:
    """Note that this process makes an OpenGL context.

    Raises:
        UserError: the process was forked from one that has a context. Another one would make it hang.
    """
    global _process_with_context
    if _process_with_context not in (None, os.getpid()):
        raise UserError(
            "this process was forked from one that has drawn images, and a simulator in it would hang; start it by the "
            "method 'spawn' (gymnasium.make_vec: vector_kwargs={'context': 'spawn'})"
        )
    _process_with_context = os.getpid()


def _remedy() -> str:
    if sys.platform == "linux":
        return f"on Debian or Ubuntu, run: {INSTALL_HINT}"
    return f"this project is tested on Linux only; what MuJoCo needs on {sys.platform} is in its documentation"


def _variables(backend: str) -> dict[str, str]:
    """Environment variables that select a backend."""
    variables = {"MUJOCO_GL": backend}
    if backend in ("egl", "osmesa"):  # these two go through PyOpenGL, which must use the same one
        variables["PYOPENGL_PLATFORM"] = backend
    return variables


def _renders(backend: str) -> bool:
    """Whether a new process can render one frame; in a process of its own, because a faulty driver crashes."""
    env = {**os.environ, **_variables(backend)}
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
