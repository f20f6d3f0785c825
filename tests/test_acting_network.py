"""The network arranged for acting computes what the trained network computes; the ONNX file does, too."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.language_policy import write_language_policy
from vla.errors import UserError
from vla.files import SHIPPED, SHIPPED_LANGUAGE
from vla.policies import onnx_export
from vla.policies.acting_network import arrange_for_acting
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import build_model, build_policy, instruction_embeddings, load_checkpoint
from vla.policies.execution import Precision
from vla.policies.kernels import Kernels
from vla.policies.network import model_architecture
from vla.policies.onnx_export import export_onnx

CPU = torch.device("cpu")
ROUNDING = 1e-5
BFLOAT16_ROUNDING = 0.03


def _pictures(count: int) -> np.ndarray:
    with np.load(ROOT / "docs/examples/familiar.npz") as file:
        pictures: np.ndarray = file["pictures"]
    return pictures[:: len(pictures) // count][:count]


@pytest.mark.parametrize("path", [SHIPPED, SHIPPED_LANGUAGE])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", ROUNDING), ("bfloat16", BFLOAT16_ROUNDING)])
def test_shipped_policies_act_as_they_were_trained(path: Path, precision: Precision, tolerance: float) -> None:
    checkpoint = load_checkpoint(ROOT / path)
    networks = (build_model(checkpoint, path), build_policy(checkpoint, path, CPU, precision))
    actors = [PolicyActor(network, instruction_embeddings(checkpoint, "none"), CPU) for network in networks]
    state = np.array([-1.0, 0.0, 2.0, 0.8], dtype=np.float32)
    chunks: list[list[np.ndarray]] = [[], []]
    for number, picture in enumerate(_pictures(6)):
        for actor, seen in zip(actors, chunks, strict=True):
            if number % 2 == 0:  # another instruction, which nothing remembered must outlive
                actor.reset(checkpoint["language"]["texts"][number], seed=0)
            actor.select_action_from_image(picture, state)
            seen.append(actor.action_chunk)
    np.testing.assert_allclose(chunks[1], chunks[0], atol=tolerance, rtol=0)
    assert np.ptp(chunks[0], axis=0).max() > 0.1
    if precision == "bfloat16":
        assert not np.array_equal(chunks[0], chunks[1])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("language_in_vision", ["none", "both"])
def test_several_frames_in_a_batch(
    packed: bool, precision: Precision, language_in_vision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the inference server asks, with and without oneDNN; several frames and the instruction's attention, too."""
    torch.manual_seed(0)
    architecture = model_architecture()
    settings = {"image": {"size_px": 64}, "observation_horizon": 3, "language_in_vision": language_in_vision}
    network: Any = architecture.VLA(architecture.ModelConfig.from_dict(settings))
    images, words = torch.randn(6, 3, 64, 64), torch.randn(6, 512)
    with torch.no_grad():
        for film in network.vision.films:  # it begins by changing nothing
            film.project.weight.normal_(std=0.02)
        for _ in range(20):  # batch normalisation learns something to fold
            network.encode(images, None, words)
        network.eval()
        features = network.encode(images, None, words)
        expected = features, network.decode(features.unflatten(0, (2, 3)), words[:2]).actions()
    if not packed:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not Kernels.choose(CPU, precision).packed or packed
    acting = arrange_for_acting(network, CPU, precision)
    with torch.inference_mode():
        found = acting.encode(images, None, words), acting.decode(features.unflatten(0, (2, 3)), words[:2]).actions()
    limits = (1e-4, ROUNDING) if precision == "float32" else (0.2, BFLOAT16_ROUNDING)
    for result, wanted, limit in zip(found, expected, limits, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, wanted, atol=limit, rtol=0)


def test_an_unknown_precision_is_a_mistake() -> None:
    with pytest.raises(UserError, match="precision 'half': give one of float32, bfloat16"):
        Kernels.choose(CPU, "half")  # type: ignore[arg-type]


def test_export_without_its_packages_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx and onnxscript; install them with"):
        export_onnx(ROOT / SHIPPED, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_other_actions_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: True)
    monkeypatch.setattr(onnx_export, "_write", lambda *inputs: inputs[-1].write_bytes(b"of another policy"))
    monkeypatch.setattr(onnx_export, "_parity", lambda *_: float("nan"))
    with pytest.raises(UserError, match=r"differ by up to nan, .* nothing was written"):
        export_onnx(ROOT / SHIPPED, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_onnx_file_says_how_to_act(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="requirements-onnx.txt is not installed")
    runtime = pytest.importorskip("onnxruntime")
    checkpoint_path, target = tmp_path / "policy.pth", tmp_path / "policy.onnx"
    write_language_policy(checkpoint_path)
    export_onnx(checkpoint_path, target)
    assert "actions differ by at most" in capsys.readouterr().out
    session = runtime.InferenceSession(target, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    language = load_checkpoint(checkpoint_path)["language"]
    assert json.loads(facts["instructions"]) == language["texts"]
    stored = np.frombuffer(base64.b64decode(facts["instruction_embeddings"]), "<f4")
    np.testing.assert_array_equal(stored.reshape(-1, 512), language["embeddings"].numpy())
    assert json.loads(facts["action_scale"])["position_m"] == 0.05
    assert [(given.name, given.shape, given.type) for given in session.get_inputs()] == [
        ("images", [10, 224, 224, 3], "tensor(uint8)"),
        ("instruction", [512], "tensor(float)"),
    ]
