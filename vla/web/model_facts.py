"""What the tab "Model" says: Table 1, where the weights came from, the training curves and the latest evaluation."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import nn

from vla import stages
from vla.evaluation.tables import report_table
from vla.files import SHIPPED
from vla.markdown import markdown_table
from vla.policies.checkpoint import provenance
from vla.policies.network import PolicyNetwork
from vla.policies.text_encoder import EncoderName
from vla.web import past_evaluations
from vla.web.checkpoint_choices import CheckpointChoices
from vla.web.loaded_policy import LoadedPolicy

CURVES = "training_curves.png"
"""Name of the picture that training writes beside its checkpoint."""
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


def about_model(choices: CheckpointChoices) -> str:
    """Describe the policy that is offered first, as Markdown."""
    policy = choices.first()
    broken = "".join(f"\n\n`{name}` cannot be used: {reason}" for name, reason in choices.broken.items())
    if policy is None:
        return f"{_untrained_parameters()}\n\n## Weights\nNone yet: see the notice above.{broken}"
    encoder = policy.facts["text_identity"].get("encoder", "clip")
    return f"{_parameters(policy.network, encoder)}\n\n## Weights\n{_origin(policy)}{broken}"


def training_curves(choices: CheckpointChoices) -> Path | None:
    """Return the picture of the user's own training, or else the shipped policy's if that is offered first."""
    own = choices.main.parent / CURVES
    if own.is_file():
        return own
    first = choices.first()
    return past_evaluations.MEASURED / CURVES if first is not None and first.path.name == SHIPPED.name else None


def about_training(choices: CheckpointChoices) -> str:
    """Say whose training the picture shows, or how to get one, as Markdown."""
    found = training_curves(choices)
    if found is None:
        return f"No training curves at {choices.main.parent / CURVES} yet; train with: `make train`"
    if found.parent == past_evaluations.MEASURED:
        return "The training of the shipped policy."
    return f"`{found}`, the latest training in that folder."


def latest_evaluation(results: Path) -> str:
    """Return Table 4 with intervals, and what was evaluated, as Markdown; `results` is the folder of evaluations."""
    found = past_evaluations.latest_evaluation(results)
    if found is None:
        return f"No evaluation below {results} yet; run one with: `make evaluate`"
    place = str(found.path)
    if found.path.parent == past_evaluations.MEASURED:
        place = f"docs/results/{found.path.name}, which comes with the repository"
    return f"From {place}.\n\n{past_evaluations.description(found)}\n\n{report_table(found.episodes)}"


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
