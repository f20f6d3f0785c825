"""A policy as an ONNX file: pictures as the camera takes them in, actions out, for runtimes without torch.

The file cuts, resizes and normalises the pictures, too. Its metadata say the rest: the known instructions with their
embeddings, the text encoder that made these, and what an action of 1.0 means.
"""

from __future__ import annotations

import base64
import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vla.errors import UserError
from vla.files import atomic_path
from vla.policies.checkpoint import build_model, load_checkpoint
from vla.policies.network import TrainableNetwork
from vla.policies.preprocess import PROPRIOCEPTION_DIM, prepare
from vla.sim.config import POSITION_SCALE_M, ROTATION_SCALE_RAD, EnvConfig

FORMAT_VERSION = 1
PARITY_INPUTS = 32
LARGEST_DIFFERENCE = 1e-4
"""Actions that differ by more are another policy's; one of 1.0 moves the hand by 5 cm."""
_INSTALL = "python -m pip install -r requirements-onnx.txt"


class OnnxPolicy(nn.Module):
    """The whole decision as one computation, as the file holds it."""

    def __init__(self, network: TrainableNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, instruction: Tensor, state: Tensor | None = None) -> Tensor:
        """Predict a chunk of actions.

        Args:
            images: (T, H, H, 3) uint8, the camera's last T pictures, oldest first.
            instruction: (text_dim,) float32 raw embedding.
            state: (T, 4) float32 proprioception in decimetres, for a policy that asks for it.

        Returns:
            (K, 7) float32 in [-1, 1].
        """
        config, words = self.network.config, instruction[None]
        heard = words.expand(len(images), -1) if config.encodes_language else None
        features = self.network.encode(prepare(images, config.image), state, heard)
        return self.network.decode(features[None], words).actions()[0]


def export_onnx(checkpoint_path: Path, target: Path) -> None:
    """Write a checkpoint's policy to `target`, once onnxruntime has computed the same actions with it.

    Raises:
        UserError: the checkpoint cannot be used, the packages are missing, or the actions are others.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"--export needs the packages {' and '.join(missing)}; install them with: {_INSTALL}")
    checkpoint = load_checkpoint(checkpoint_path)
    policy = OnnxPolicy(build_model(checkpoint, checkpoint_path)).eval()
    inputs = _random_inputs(policy, checkpoint, np.random.default_rng(0))
    with atomic_path(target) as temporary:
        _write(policy, inputs, _metadata(checkpoint, policy), temporary)
        size_mb = temporary.stat().st_size / 1e6
        difference = None if find_spec("onnxruntime") is None else _parity(policy, checkpoint, temporary)
        if difference is not None and not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"onnxruntime computes actions that differ by up to {difference:.1e}, and {LARGEST_DIFFERENCE:.0e} is "
                f"allowed; nothing was written: install the versions that were tested, {_INSTALL}"
            )
    shapes = ", ".join(f"{name} {tuple(value.shape)} {value.dtype}" for name, value in inputs.items())
    print(f"{target}: {size_mb:.0f} MB, inputs {shapes.replace('torch.', '')}")
    if difference is None:
        print(f"NOT CHECKED: onnxruntime is missing; to compare its actions with torch's: {_INSTALL}")
    else:
        print(f"onnxruntime and torch: actions differ by at most {difference:.1e} on {PARITY_INPUTS} random inputs")


def _write(policy: OnnxPolicy, inputs: dict[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    with _without_notes():
        program: Any = torch.onnx.export(
            policy,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=["actions"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    program.save(path)


def _metadata(checkpoint: Mapping[str, Any], policy: OnnxPolicy) -> dict[str, str]:
    """What a program needs to use the file; texts, or JSON."""
    config, language = policy.network.config, checkpoint["language"]
    embeddings = language["embeddings"].numpy().astype("<f4")
    facts = {
        "format_version": FORMAT_VERSION,
        "instructions": language["texts"],
        "text_encoder": checkpoint["text_identity"],
        "model_config": config.to_dict(),  # with the region of interest, which the file itself cuts out
        "action_scale": {
            "position_m": POSITION_SCALE_M,
            "rotation_rad": ROTATION_SCALE_RAD,
            "gripper": "+1 closes, -1 opens",
        },
        "env_args": checkpoint["env_args"],
    }
    written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    # (n, text_dim) float32, little-endian, by row, in base64: the embeddings of the instructions, in their order.
    return written | {"instruction_embeddings": base64.b64encode(embeddings.tobytes()).decode("ascii")}


def _random_inputs(
    policy: OnnxPolicy, checkpoint: Mapping[str, Any], generator: np.random.Generator
) -> dict[str, Tensor]:
    """Noise for pictures and state, and a known instruction, by the names of the inputs."""
    config, side = policy.network.config, EnvConfig.from_env_args(checkpoint["env_args"]).image_size_px
    horizon, embeddings = config.observation_horizon, checkpoint["language"]["embeddings"]
    images = generator.integers(0, 256, (horizon, side, side, 3), dtype=np.uint8)
    inputs = {
        "images": torch.from_numpy(images),
        "instruction": embeddings[int(generator.integers(len(embeddings)))].clone(),
    }
    if config.proprioception:
        state = generator.normal(size=(horizon, PROPRIOCEPTION_DIM)).astype(np.float32)
        inputs["state"] = torch.from_numpy(state)
    return inputs


@torch.inference_mode()
def _parity(policy: OnnxPolicy, checkpoint: Mapping[str, Any], path: Path) -> float:
    """The largest difference between the actions of onnxruntime and of torch on random inputs."""
    session: Any = importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    generator, largest = np.random.default_rng(1), 0.0
    for _ in range(PARITY_INPUTS):
        inputs = _random_inputs(policy, checkpoint, generator)
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        largest = max(largest, float(np.abs(found - policy(*inputs.values()).numpy()).max()))
    return largest


@contextmanager
def _without_notes() -> Iterator[None]:
    """Keep the exporter's notes to its developers from the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
