"""What the page says of the model: Table 1, and where the weights came from."""

from __future__ import annotations

from torch import nn

from vla import stages
from vla.checkpoint import provenance
from vla.stats import markdown_table
from vla.web.policies import Policies, Policy

PARTS = {
    "vision": ("Vision encoder (ResNet18)", "11.2M"),
    "feature_norm": ("Normalisation of its output", "-"),
    "fusion": ("Cross-attention fusion", "2.1M"),
    "decoder": ("Action decoder (4 layers)", "8.3M"),
    "auxiliary": ("Auxiliary head (training only)", "-"),
}
"""Table 1 of the report, by the names of `VLA`'s parts."""


def about_model(policies: Policies) -> str:
    """Of the policy that is offered first, as Markdown."""
    names = policies.names()
    if names:
        policy = policies[names[0]]
        return f"{_parameters(policy.model)}\n\n## Weights\n{_origin(policy)}"
    architecture = stages.model_architecture()
    untrained = architecture.VLA(architecture.ModelConfig())
    return f"{_parameters(untrained)}\n\n## Weights\nNone yet: see the notice above."


def _parameters(model: nn.Module) -> str:
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    rows = [(*PARTS.get(name, (name, "-")), f"{count:,}") for name, count in counts.items()]
    rows.append(("**Total trainable**", "21.6M", f"**{sum(counts.values()):,}**"))
    return (
        f"## Parameters\n{markdown_table(('Table 1: component', 'report', 'here'), rows)}\n\n"
        "The frozen text tower (CLIP ViT-B/32), which stands beside the network, has 63.4M more."
    )


def _origin(policy: Policy) -> str:
    training = policy.facts["training"]
    versions = ", ".join(f"{name} {version}" for name, version in policy.facts["versions"].items())
    return (
        f"`{policy.path}`, grown from: {provenance(policy.facts)}.\n\nTrained for {training['epoch']} epochs "
        f"({training['step']} steps), seed {training['identity']['seed']}; its score: {training['score_text']}.\n\n"
        f"Demonstrations: sha256 `{training['identity']['data_sha256'][:16]}`. Versions: {versions}."
    )
