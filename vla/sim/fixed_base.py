"""robosuite's controller for an arm on a fixed base. `vla.sim.env` imports it; the import registers it with robosuite.

A control step asks the controller 25 times, in Python. What depends on the base alone never changes, and is computed
once; commands and motion are those of robosuite's BASIC, to the bit (`tests/test_fixed_base.py`).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from robosuite.controllers.composite.composite_controller import CompositeController, register_composite_controller


@register_composite_controller
class FixedBase(CompositeController):  # type: ignore[misc]  # robosuite has no types
    """robosuite's BASIC composite controller, which looks up the pose of its base and its limits only once."""

    name = "FIXED_BASE"

    def load_controller_config(self, *args: Any, **options: Any) -> None:
        """Make the controllers of the parts."""
        super().load_controller_config(*args, **options)
        self._knows_base = False

    def update_state(self) -> None:
        """Tell the arm where its base is."""
        if not self._knows_base:
            super().update_state()
            self._knows_base = True

    @functools.cached_property
    def action_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest action, (7,) each."""
        low, high = super().action_limits
        return low, high
