"""Writes a checkpoint of the scene "cubes" for the tests: its network is untrained."""

from __future__ import annotations

from pathlib import Path

import torch

from vla.policies.checkpoint import save_checkpoint
from vla.policies.grammar import MEANINGS, wordings
from vla.policies.network import model_architecture
from vla.sim.config import EnvConfig, Scene, installed_versions

ENV = EnvConfig(scene=Scene("cubes", counts=(2,)))
"""Two cubes of different colours."""
SEED = 2_000_003
"""On its table, the first cube is red, the second one green."""


def write_language_policy(path: Path) -> None:
    """Write a policy of ENV. It knows two wordings of each meaning; its embeddings are random, alike in a meaning."""
    torch.manual_seed(0)
    architecture = model_architecture()
    config = architecture.ModelConfig.from_dict({"image": {"size_px": 64}})
    network = architecture.VLA(config)
    spoken = [text for meaning in MEANINGS for text in wordings(meaning, "training")[:2]]
    embeddings = torch.randn(len(MEANINGS), 512).repeat_interleave(2, dim=0) + 0.1 * torch.randn(len(spoken), 512)
    network.fit_language(embeddings)
    untrained = {"source": "untrained", "pretrained": False, "why": "test", "seed": 0}
    save_checkpoint(
        path,
        {
            "model_config": config.to_dict(),
            "model": network.state_dict(),
            "vision_identity": untrained,
            "text_identity": {**untrained, "sha256": "0" * 64},
            "language": {"texts": spoken, "embeddings": embeddings},
            "env_args": ENV.to_env_args(),
            "versions": installed_versions(),
            "training": {"identity": {"seed": 0, "data_sha256": "0" * 64}, "epoch": 0, "step": 0, "score_text": "none"},
        },
    )
