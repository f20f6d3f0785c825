"""Policies on the Hugging Face Hub: `hf://user/name` is downloaded once; a policy is uploaded with its model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors

from vla.errors import MachineError, UserError
from vla.markdown import markdown_table
from vla.policies.checkpoint import load_checkpoint, provenance
from vla.policies.weights import is_reachable
from vla.sim.config import EnvConfig

POLICY_FILE = "policy.pth"
"""Name of the checkpoint in a model's repository on the hub."""
CARD_FILE = "README.md"
_ADDRESS = re.compile(r"hf:/{1,2}(?P<model>[^@]+?)/?(?:@(?P<revision>.+))?")
"""A `Path` keeps only one of the slashes."""
_MODEL = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_NOT_ANSWERED = (OSError, httpx2.HTTPError)
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


def local_checkpoint(name: str | Path) -> Path:
    """The file of a checkpoint: its path, or where the hub's cache keeps what `hf://user/name[@revision]` names.

    Raises:
        UserError: there is no such policy on the hub, or the hub cannot be reached and the cache does not have it.
    """
    address = _ADDRESS.fullmatch(str(name))
    if address is None:
        return Path(name)
    model, revision = address["model"], address["revision"]
    shown = f"hf://{model}" + (f"@{revision}" if revision else "")
    malformed = f"{shown} names no model; write hf://USER/NAME or hf://USER/NAME@REVISION"
    if _MODEL.fullmatch(model) is None:
        raise UserError(malformed)
    is_offline = constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT)
    try:
        return Path(huggingface_hub.hf_hub_download(model, POLICY_FILE, revision=revision, local_files_only=is_offline))
    except errors.HFValidationError:
        raise UserError(malformed) from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{shown} is not in the cache {constants.HF_HUB_CACHE}, and the hub cannot be reached; "
            f"where it can be, run: hf download {model} {POLICY_FILE}"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise UserError(
            f"{shown} holds no {POLICY_FILE} that you may read ({type(error).__name__}); "
            "look at its page, or log in with: hf auth login"
        ) from None
    except _NOT_ANSWERED as error:
        raise MachineError(f"{shown} could not be downloaded ({_line(error)}); run the same command again") from None


def check_can_push(model: str) -> None:
    """Check, before a training begins, that its policy can be uploaded as this model.

    Raises:
        UserError: `model` is no USER/NAME, or there is no token.
    """
    if _MODEL.fullmatch(model) is None:
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
        raise UserError(f"{model} was not uploaded, the hub refuses ({_line(error)}); {again}") from None
    except _NOT_ANSWERED as error:
        raise MachineError(f"{model} was not uploaded ({_line(error)}); {again}") from None
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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
