"""First pictures of episodes, from a simulator of their own: they wait for no visitor's episode."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator

from vla.sim.config import EnvConfig
from vla.web.simulator_process import SimulatorProcess, View


class Gallery:
    """A second simulator, started in the background, and the first pictures that it has shown lately."""

    KEPT = 64

    def __init__(self, env: EnvConfig) -> None:
        self._env = env
        self._simulator: SimulatorProcess | None = None
        self._in_use, self._starting = threading.Lock(), threading.Lock()
        self._views: OrderedDict[int, View] = OrderedDict()

    def start(self) -> SimulatorProcess:
        """The simulator, which begins to start with the first call."""
        with self._starting:
            if self._simulator is None:
                self._simulator = SimulatorProcess(self._env)
            return self._simulator

    def close(self) -> None:
        """End the simulator, where there is one."""
        if self._simulator is not None:
            self._simulator.close()

    def keep(self, seed: int, view: View) -> None:
        """Remember the first picture of a seed."""
        self._views[seed] = view
        while len(self._views) > self.KEPT:
            self._views.popitem(last=False)

    def view(self, seed: int) -> View:
        """The first picture of a seed; where it is not known, it waits for a comparison that is running.

        Raises:
            UserError: see `SimulatorProcess.view`.
        """
        view = self._views.get(seed)
        if view is None:
            with self.borrowed() as simulator:
                view = simulator.view(seed)
            self.keep(seed, view)
        return view

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[SimulatorProcess]:
        """The simulator, for nobody else until it is given back."""
        with self._in_use:
            yield self.start()
