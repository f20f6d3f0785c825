"""Where a policy looks: how much its first action changes when a spot of the picture is hidden.

This is occlusion (Zeiler and Fergus 2014). A square in the picture's mean colour is moved over the part that the
network sees. With several instructions the same squares are hidden for each, so that their maps can be compared.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vla.policies.network import PolicyNetwork
from vla.policies.preprocess import ImageSpec, prepare

SQUARE_SHARE = 1 / 6
"""Side of the hidden square, as a share of the side of what the network sees."""
STRIDE_SHARE = 1 / 16
"""Distance between two places of the square, as the same share."""
BATCH_IMAGES = 32


@torch.inference_mode()
def occlusion_maps(
    network: PolicyNetwork, image: np.ndarray, embeddings: Tensor, state: np.ndarray | None = None
) -> np.ndarray:
    """How much the first action changes when each pixel is hidden, one map for each instruction.

    Args:
        network: the policy's.
        image: (H, H, 3) uint8. It fills the whole observation buffer, as at the start of an episode.
        embeddings: (n, text_dim) raw, of the instructions, on the network's device.
        state: (4,) proprioception in decimetres, for a network that asks for it; nothing of it is hidden.

    Returns:
        (n, H, H) change of the action, the Euclidean norm over its seven numbers in [-1, 1]; the mean over the squares
        that hide the pixel. It is 0 where the network does not look at all.
    """
    corners, side = _corners(network.config.image, image.shape[0])
    hidden = np.repeat(image[None], len(corners) + 1, axis=0)  # the last one stays whole
    for copy, (row, column) in zip(hidden, corners, strict=False):
        copy[row : row + side, column : column + side] = image.mean(axis=(0, 1)).astype(np.uint8)
    actions = _first_actions(network, hidden, embeddings, state)  # (n, squares + 1, 7)
    change = np.linalg.norm(actions[:, :-1] - actions[:, -1:], axis=-1)  # (n, squares)
    total = np.zeros((len(embeddings), *image.shape[:2]))
    count = np.zeros(image.shape[:2])
    for value, (row, column) in zip(change.T, corners, strict=True):
        total[:, row : row + side, column : column + side] += value[:, None, None]
        count[row : row + side, column : column + side] += 1
    maps: np.ndarray = total / np.maximum(count, 1)
    return maps


def _corners(spec: ImageSpec, picture_px: int) -> tuple[list[tuple[int, int]], int]:
    """Upper left corners (row, column) of the square within the region of interest, and the square's side."""
    left, top, side = (round(picture_px * share) for share in (spec.crop_left, spec.crop_top, spec.crop_size))
    size, stride = int(side * SQUARE_SHARE), int(side * STRIDE_SHARE)
    offsets = range(0, side - size + 1, stride)
    return [(top + row, left + column) for row in offsets for column in offsets], size


def _first_actions(
    network: PolicyNetwork, images: np.ndarray, embeddings: Tensor, state: np.ndarray | None
) -> np.ndarray:
    """(m, H, H, 3) uint8, (n, text_dim), (4,) -> (n, m, 7)."""
    own_state = None if state is None else torch.from_numpy(state).to(embeddings.device)
    horizon, spec = network.config.observation_horizon, network.config.image
    actions = []
    for part in torch.from_numpy(images).split(BATCH_IMAGES):
        prepared = prepare(part.to(embeddings.device), spec)
        states = None if own_state is None else own_state.expand(len(part), -1)
        features = None if network.config.encodes_language else network.encode(prepared, states)
        chunks = []
        for embedding in embeddings:
            words = embedding.expand(len(part), -1)
            seen = network.encode(prepared, states, words) if features is None else features
            chunk = network.decode(seen[:, None].expand(-1, horizon, -1), words).actions()  # (m, K, 7)
            chunks.append(chunk[:, 0].float())
        actions.append(torch.stack(chunks).cpu().numpy())
    return np.concatenate(actions, axis=1)
