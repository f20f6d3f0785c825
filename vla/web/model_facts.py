"""What the tab "Model" says of the policy: Table 1, and where its weights came from."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import nn

from vla import stages
from vla.markdown import markdown_table
from vla.policies.checkpoint import provenance
from vla.policies.network import PolicyNetwork
from vla.policies.text_encoder import EncoderName
from vla.web.loaded_policy import LoadedPolicy

PARTS = {
    "vision": ("Vision encoder (ResNet18)", "11.2M"),
    "feature_norm": ("Normalisation of its output", "-"),
    "fusion": ("Cross-attention fusion", "2.1M"),
    "decoder": ("Action decoder (4 layers)", "8.3M"),
    "auxiliary": ("Auxiliary head (training only)", "-"),
    "named": ("Auxiliary head behind the fusion (training only)", "-"),
    "text_projection": ("Projection of the instruction", "-"),
}
"""Rows of the report's Table 1, by the names of `VLA`'s parts."""
TEXT_ENCODERS: dict[EncoderName, str] = {
    "clip": "text tower (CLIP ViT-B/32) has 63.4M",
    "minilm": "sentence encoder (all-MiniLM-L6-v2) has 22.6M",
}
"""The text encoders, with their parameters."""


def about_model(policy: LoadedPolicy | None, broken_checkpoints: Mapping[str, str]) -> str:
    """Describe a policy, and why each of `broken_checkpoints` cannot be used, as Markdown; None: there is no policy."""
    broken = "".join(f"\n\n`{name}` cannot be used: {reason}" for name, reason in broken_checkpoints.items())
    if policy is None:
        none = "None that can be used." if broken else "None yet: see the notice above."
        return f"{_untrained_parameters()}\n\n## Weights\n{none}{broken}"
    encoder = policy.facts["text_identity"].get("encoder", "clip")
    return f"{_parameters(policy.network, encoder)}\n\n## Weights\n{_origin(policy)}{broken}"


@functools.cache
def _untrained_parameters() -> str:
    architecture = stages.model_architecture()
    return _parameters(architecture.VLA(architecture.ModelConfig()), "clip")


def _parameters(network: PolicyNetwork, encoder: EncoderName) -> str:
    # The network that acts is rearranged, and no longer has the parts of the trained one.
    with torch.device("meta"):
        trained: nn.Module = stages.model_architecture().VLA(network.config)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in trained.named_children()}
    rows = [(*PARTS.get(name, (name, "-")), f"{count:,}") for name, count in counts.items() if count]
    rows.append(("**Total trainable**", "21.6M", f"**{sum(counts.values()):,}**"))
    return (
        f"## Parameters\n{markdown_table(('Table 1: component', 'report', 'here'), rows)}\n\n"
        f"The frozen {TEXT_ENCODERS[encoder]} more, which are not part of the network."
    )


def _origin(policy: LoadedPolicy) -> str:
    training = policy.facts["training"]
    versions = ", ".join(f"{name} {version}" for name, version in policy.facts["versions"].items())
    return (
        f"`{policy.path}`, trained from: {provenance(policy.facts)}.\n\nTrained for {training['epoch']} epochs "
        f"({training['step']} steps), seed {training['identity']['seed']}; its score: {training['score_text']}.\n\n"
        f"Demonstrations: sha256 `{training['identity']['data_sha256'][:16]}`. Versions: {versions}."
    )
