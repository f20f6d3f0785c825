"""What the page says of the model: Table 1, and where the weights came from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from vla import stages
from vla.evaluation.episode import report_table
from vla.files import SHIPPED
from vla.markdown import markdown_table
from vla.policies.checkpoint import provenance
from vla.web import browse
from vla.web.policies import Policies, Policy

CURVES = "training_curves.png"
"""What training writes beside its checkpoint."""
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
    policy = policies.first()
    broken = "".join(f"\n\n`{name}` cannot be used: {reason}" for name, reason in policies.broken.items())
    if policy is not None:
        return f"{_parameters(policy.model)}\n\n## Weights\n{_origin(policy)}{broken}"
    architecture = stages.model_architecture()
    untrained = architecture.VLA(architecture.ModelConfig())
    return f"{_parameters(untrained)}\n\n## Weights\nNone yet: see the notice above.{broken}"


def training_curves(policies: Policies) -> Path | None:
    """The picture of the training: of the user's own where there is one, else that of the shipped policy."""
    own = policies.main.parent / CURVES
    if own.is_file():
        return own
    first = policies.first()
    return browse.MEASURED / CURVES if first is not None and first.path.name == SHIPPED.name else None


def about_training(policies: Policies) -> str:
    """What the picture shows, or how to come by one, as Markdown."""
    found = training_curves(policies)
    if found is None:
        return f"No training curves at {policies.main.parent / CURVES} yet; train with: `make train`"
    shipped = found.parent == browse.MEASURED
    return "Of the shipped policy." if shipped else f"`{found}`, of the latest training in that folder."


def latest_evaluation(results: Path) -> str:
    """Table 4 with intervals, and whose it is, as Markdown."""
    found = browse.latest_evaluation(results)
    if found is None:
        return f"No evaluation below {results} yet; run one with: `make evaluate`"
    name = found.path.name if found.path.parent == browse.MEASURED else found.path
    place = f"docs/results/{name}, which comes with the repository" if name == found.path.name else f"{name}"
    return f"From {place}.\n\n{browse.about_evaluation(found)}\n\n{report_table(found.episodes)}"


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
