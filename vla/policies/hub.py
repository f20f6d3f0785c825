"""Policies from the Hugging Face Hub: `hf://user/name` is downloaded once. Nothing here needs torch."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors

from vla.errors import MachineError, UserError
from vla.policies.reachable import is_reachable

POLICY_FILE = "policy.pth"
"""Name of the checkpoint in a model's repository on the hub."""
_ADDRESS = re.compile(r"hf:/{1,2}(?P<model>[^@]+?)/?(?:@(?P<revision>.+))?")
"""A `Path` keeps only one of the slashes."""
MODEL_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
NOT_ANSWERED = (OSError, httpx2.HTTPError)
"""Errors of a hub that does not answer."""


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
    if MODEL_NAME.fullmatch(model) is None:
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
    except NOT_ANSWERED as error:
        raise MachineError(
            f"{shown} could not be downloaded ({in_a_line(error)}); run the same command again"
        ) from None


def in_a_line(error: Exception) -> str:
    """Return what an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
