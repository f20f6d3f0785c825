"""A policy on the Hugging Face Hub: its checkpoint is uploaded with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from vla.errors import MachineError, UserError
from vla.markdown import markdown_table
from vla.policies.checkpoint import load_checkpoint, provenance
from vla.policies.hub import MODEL_NAME, NOT_ANSWERED, POLICY_FILE, in_a_line
from vla.sim.config import EnvConfig

CARD_FILE = "README.md"
_CARD = """---
library_name: vla-lift
pipeline_tag: robotics
tags:
- robotics
- vision-language-action
---

# {name}

A vision-language-action policy for robosuite's Lift, trained by `4_train.py`. It knows one simulated scene and no
limits of force: do not connect it to a robot.

```python
import vla

policy = vla.load_policy("hf://{name}")
policy.reset("{instruction}")
```

{table}

To measure it: `python 5_evaluate.py --checkpoint hf://{name} --num-episodes 100`
"""


def check_can_push(model: str) -> None:
    """Check, before a training begins, that its policy can be uploaded as this model.

    Raises:
        UserError: `model` is no USER/NAME, or there is no token.
    """
    if MODEL_NAME.fullmatch(model) is None:
        raise UserError(f"--push-to-hub {model}: a model on the hub is named USER/NAME")
    if huggingface_hub.get_token() is None:
        raise UserError(
            f"--push-to-hub {model} needs a token of the hub that may write; log in with: hf auth login "
            "(or set the environment variable HF_TOKEN)"
        )


def push_policy(path: Path, model: str) -> str:
    """Upload a checkpoint and its model card in one commit; returns the commit's address.

    Raises:
        UserError: the hub refuses.
        MachineError: it does not answer.
    """
    card = model_card(load_checkpoint(path), model)
    again = f"{path} is kept; repeat the command with --resume, or run: hf upload {model} {path} {POLICY_FILE}"
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(model, exist_ok=True)
        files: dict[str, Path | bytes] = {POLICY_FILE: path, CARD_FILE: card.encode()}
        added = [huggingface_hub.CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(model, operations=added, commit_message="A policy of 4_train.py")
    except errors.HfHubHTTPError as error:
        raise UserError(f"{model} was not uploaded, the hub refuses ({in_a_line(error)}); {again}") from None
    except NOT_ANSWERED as error:
        raise MachineError(f"{model} was not uploaded ({in_a_line(error)}); {again}") from None
    return str(commit.commit_url)


def model_card(checkpoint: Mapping[str, Any], model: str) -> str:
    """The model card of a checkpoint: what it is, how it was made, how to use it. It claims no success rate."""
    training, env = checkpoint["training"], EnvConfig.from_env_args(checkpoint["env_args"])
    identity = training.get("identity", {})
    versions = ", ".join(f"{name} {version}" for name, version in checkpoint.get("versions", {}).items())
    rows = [
        ("Scene", env.scene.kind),
        ("Initial weights", provenance(checkpoint)),
        ("Trained", f"{training['epoch']} epochs, {training.get('step', '?')} steps"),
        ("Chosen by", str(training.get("score_text", "?"))),
        ("SHA-256 of the demonstrations", str(identity.get("data_sha256", "?"))),
        ("Instructions in training", str(len(checkpoint["language"]["texts"]))),
        ("Versions", versions or "?"),
    ]
    instruction = next(iter(sorted(checkpoint["language"]["texts"])), "Pick up the cube")
    return _CARD.format(name=model, instruction=instruction, table=markdown_table(("", ""), rows))
