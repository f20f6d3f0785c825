"""A second simulator, for first images and for the other half of a comparison. It waits for no visitor's episode."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator

from vla.sim.config import EnvConfig
from vla.web.messages import CameraView
from vla.web.simulator_process import SimulatorProcess


class SecondSimulator:
    """A simulator that is started in the background, and the first images that it took lately."""

    KEPT = 64
    """Largest number of first images that are kept."""

    def __init__(self, env: EnvConfig) -> None:
        """`env` is the simulator to start with."""
        self._env = env
        self._simulator: SimulatorProcess | None = None
        self._in_use, self._starting = threading.Lock(), threading.Lock()
        self._views: OrderedDict[tuple[EnvConfig, int], CameraView] = OrderedDict()
        self._free = threading.Event()
        self._free.set()

    def start(self) -> SimulatorProcess:
        """Return the simulator; the first call begins to start it."""
        with self._starting:
            if self._simulator is None:
                self._simulator = SimulatorProcess(self._env)
            return self._simulator

    def close(self) -> None:
        """End the simulator, if it was started."""
        if self._simulator is not None:
            self._simulator.close()

    def hold_back(self) -> None:
        """Let first images wait until `let_go`: a rehearsal will keep the first of them, and needs the processor."""
        self._free.clear()

    def let_go(self) -> None:
        """Let first images wait no longer."""
        self._free.set()

    def keep(self, env: EnvConfig, seed: int, view: CameraView) -> None:
        """Keep the first image of a seed in the simulator of `env`."""
        self._views[env, seed] = view
        while len(self._views) > self.KEPT:
            self._views.popitem(last=False)

    def start_view(self, env: EnvConfig, seed: int) -> CameraView:
        """Return the first image of a seed in the simulator of `env`.

        If it is not kept, this waits for a running comparison, and for a restart if the simulator was another one.

        Raises:
            UserError: see `SimulatorProcess.start_view`.
        """
        self._free.wait()
        view = self._views.get((env, seed))
        if view is None:
            with self.borrowed(env) as simulator:
                view = simulator.start_view(seed)
            self.keep(env, seed, view)
        return view

    @contextlib.contextmanager
    def borrowed(self, env: EnvConfig) -> Iterator[SimulatorProcess]:
        """Lend the simulator of `env` to one caller at a time."""
        with self._in_use:
            simulator = self.start()
            simulator.configure(env)
            yield simulator
