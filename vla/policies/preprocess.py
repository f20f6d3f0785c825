"""Camera image to network input: one implementation, for training and for control (report sec. 4.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from vla.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TABLE_CENTRE_M = (0.0, 0.0, 0.8)
"""Middle of the table top, world frame."""
PROPRIOCEPTION_DIM = 4


@dataclass(frozen=True)
class ImageSpec:
    """The part of the camera's picture that the network sees, and its size in pixels."""

    size_px: int = 224
    """Side of the network's square input."""
    crop_top: float = 0.0
    """Top edge of the region of interest, as a fraction of the picture. It is fixed because the camera is."""
    crop_left: float = 0.0
    """Left edge of the region of interest, as a fraction of the picture."""
    crop_size: float = 1.0
    """Side of the region of interest, as a fraction of the picture."""

    def __post_init__(self) -> None:
        inside = 0 <= self.crop_top <= 1 - self.crop_size and 0 <= self.crop_left <= 1 - self.crop_size
        if self.size_px < 32 or not 0 < self.crop_size <= 1 or not inside:
            raise UserError(f"the region of interest must lie inside the picture and be at least 32 px, got {self}")


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images; drawn once for each segment, shared by its frames."""

    max_shift: float = 0.005
    """Largest shift along each axis, as a fraction of the picture. Small on purpose: the camera is fixed, so the place
    of an object in the picture tells its distance."""
    max_brightness: float = 0.1
    """Largest amount added to every pixel, pixels in [0, 1]."""
    max_contrast: float = 0.2
    """Largest relative change of the contrast."""

    def margin_px(self, picture_px: int) -> int:
        """Largest shift in pixels of a picture with this side: the margin to keep around the region of interest."""
        return round(self.max_shift * picture_px)


def proprioception(gripper_pos: np.ndarray, gripper_qpos: np.ndarray) -> np.ndarray:
    """The arm's own state: (..., 3) and (..., 2) metres -> (..., 4) float32 decimetres.

    Position of the grip site relative to the middle of the table top, and the finger opening.
    """
    opening = gripper_qpos[..., :1] - gripper_qpos[..., 1:]
    return (10 * np.concatenate([gripper_pos - TABLE_CENTRE_M, opening], axis=-1)).astype(np.float32)


def cut(images: Tensor, spec: ImageSpec, margin_px: int = 0) -> Tensor:
    """The region of interest at the camera's resolution, with a margin. Outside the picture, its edge is repeated.

    Args:
        images: (N, H, W, C) of any type.
        margin_px: pixels kept on each side of the region.

    Returns:
        (N, R + 2 margin, R + 2 margin, C).
    """
    height, width = images.shape[1:3]
    side = round(spec.crop_size * height) + 2 * margin_px
    rows = (round(spec.crop_top * height) - margin_px + torch.arange(side)).clamp(0, height - 1)
    columns = (round(spec.crop_left * width) - margin_px + torch.arange(side)).clamp(0, width - 1)
    return images[:, rows.to(images.device)][:, :, columns.to(images.device)]


def cut_shape(picture: tuple[int, ...], spec: ImageSpec, margin_px: int) -> tuple[int, ...]:
    """Shape of what `cut` leaves of a picture of this shape, (H, W, C)."""
    return tuple(cut(torch.empty((1, *picture), device="meta"), spec, margin_px).shape[1:])


def prepare(images: Tensor, spec: ImageSpec) -> Tensor:
    """Turn camera images into network input.

    Args:
        images: (N, H, W, 3) uint8.

    Returns:
        (N, 3, S, S) float32, ImageNet-normalised, on the same device.
    """
    return prepare_regions(cut(images, spec), spec, margin_px=0)


def prepare_regions(regions: Tensor, spec: ImageSpec, margin_px: int) -> Tensor:
    """The same as `prepare`, from regions that `cut` returned with this margin."""
    side = regions.shape[1] - 2 * margin_px
    centre = regions[:, margin_px : margin_px + side, margin_px : margin_px + side]
    return _normalise(_resize(_to_unit(centre), spec))


def prepare_augmented(
    regions: Tensor,
    segments: Tensor,
    spec: ImageSpec,
    augmentation: Augmentation,
    margin_px: int,
    generator: torch.Generator,
    others: tuple[int, int] = (0, 0),
) -> Tensor:
    """The same as `prepare_regions`, with one random shift within the margin and one colour change for each segment.

    Args:
        regions: (N, R + 2 margin, R + 2 margin, 3) uint8.
        segments: (N,) int64 on the CPU, the segment of each frame: 0, 1, ... in order.
        generator: on the CPU, so that the draws are the same for every device.
        others: numbers of segments before and after these in the batch of which these are a part. Their draws are made,
            too, so that a segment changes in the same way whoever prepares it.

    Returns:
        (N, 3, S, S) float32, ImageNet-normalised.
    """
    side = regions.shape[1] - 2 * margin_px
    sizes = segments.bincount().tolist()
    before, after = others
    changes = [_draw_change(margin_px, generator) for _ in range(before + len(sizes) + after)]
    prepared = []
    for segment, change in zip(regions.split(sizes), changes[before : before + len(sizes)], strict=True):
        down, right, contrast, brightness = change
        shifted = segment[:, down : down + side, right : right + side].contiguous()
        images = _resize(_to_unit(shifted), spec)
        images = images * (1 + augmentation.max_contrast * contrast) + augmentation.max_brightness * brightness
        prepared.append(images.clamp(0, 1))
    return _normalise(torch.cat(prepared))


def _draw_change(margin_px: int, generator: torch.Generator) -> tuple[int, int, float, float]:
    """Shift down and right in pixels, [0, 2 margin]; contrast and brightness in [-1, 1]."""
    down, right = torch.randint(0, 2 * margin_px + 1, (2,), generator=generator).tolist()
    contrast, brightness = (2 * torch.rand(2, generator=generator) - 1).tolist()
    return down, right, contrast, brightness


def _to_unit(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W) in [0, 1]


def _resize(images: Tensor, spec: ImageSpec) -> Tensor:
    if images.shape[-1] == spec.size_px:
        return images
    return F.interpolate(images, size=(spec.size_px, spec.size_px), mode="bilinear", antialias=True)


def _normalise(images: Tensor) -> Tensor:
    mean = images.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
