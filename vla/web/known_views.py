"""Images that the page knows: where the gripper was in them, and how familiar another image looks beside them."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla.web.messages import CameraView
from vla.web.uploads import read_square

if TYPE_CHECKING:  # it imports torch, and the page is shown before
    from vla.web.loaded_policy import LoadedPolicy

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
"""Written by benchmarks/make_examples.py."""
COLOUR_TOLERANCE = 4
"""Largest difference of a colour (of 255) at which a pixel still counts as the same."""


@dataclass(frozen=True)
class Viewpoint:
    """Where the gripper and the camera were when an image was taken."""

    eef_pos: np.ndarray
    """(3,) grip site, world frame, metres."""
    camera_matrix: np.ndarray
    """(3, 4), see `vla.sim.env.Simulator.camera_matrix`."""


class KnownViews:
    """The example images, the images lately taken in the simulator, and frames of demonstrations to compare with."""

    KEPT = 256
    """Largest number of the simulator's images whose viewpoints are kept."""

    def __init__(self, folder: Path = EXAMPLES) -> None:
        stored = json.loads((folder / "views.json").read_text(encoding="utf-8"))
        camera_matrix = np.array(stored["camera"])
        self.home = Viewpoint(np.array(stored["home"]), camera_matrix)
        """The viewpoint at the start of an episode."""
        self.examples = [(folder / name, str(view["what"])) for name, view in stored["views"].items()]
        """File and description of each example."""
        self._of_examples: dict[str, Viewpoint] = {}
        for name, view in stored["views"].items():
            image = read_square(folder / name)
            self._of_examples[_key(image)] = Viewpoint(np.array(view["gripper_pos"]), camera_matrix)
        self._of_simulator: OrderedDict[str, Viewpoint] = OrderedDict()
        with np.load(folder / "familiar.npz") as file:
            self.familiar = file["pictures"]
            """(n, 224, 224, 3) uint8 frames of demonstrations, deliberate mistakes included."""
        self._features: weakref.WeakKeyDictionary[LoadedPolicy, tuple[np.ndarray, float]] = weakref.WeakKeyDictionary()

    def keep(self, view: CameraView) -> None:
        """Keep the viewpoint of an image that a visitor receives."""
        self._of_simulator[_key(view.image)] = Viewpoint(view.eef_pos, view.camera_matrix)
        while len(self._of_simulator) > self.KEPT:
            self._of_simulator.popitem(last=False)

    def find(self, image: np.ndarray) -> Viewpoint | None:
        """Return the viewpoint of this very image; None if it is not known."""
        key = _key(image)
        return self._of_examples.get(key) or self._of_simulator.get(key)

    def familiar_share(self, image: np.ndarray) -> float:
        """Return the share of pixels that look as in one of the familiar frames: is it the training camera's view?"""
        differences = np.abs(self.familiar.astype(np.int16) - image).max(axis=-1)  # (n, 224, 224)
        return float((differences.min(axis=0) <= COLOUR_TOLERANCE).mean())

    def strangeness(self, policy: LoadedPolicy, image: np.ndarray) -> float:
        """Return the distance of the image's features from those of the nearest familiar frame.

        The features are the network's own. The unit is the distance that 95% of the familiar frames keep from their
        nearest neighbour: above 1, the image stands apart.
        """
        if policy not in self._features:
            features = policy.features(self.familiar)
            distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
            np.fill_diagonal(distances, np.inf)
            self._features[policy] = features, float(np.percentile(distances.min(axis=1), 95))
        features, usual_distance = self._features[policy]
        distance = np.linalg.norm(features - policy.features(image[None]), axis=-1).min()
        return float(distance) / usual_distance


def _key(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
