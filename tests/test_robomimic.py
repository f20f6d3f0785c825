"""robomimic's own scripts on our file; they run where `make robomimic` has made their environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import h5py
import imageio
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, assert_user_error, run_script

SCRIPT = ROOT / "integrations/robomimic/run_scripts.py"
PYTHON = ROOT / "runs/robomimic/.venv/bin/python"
needs_robomimic = pytest.mark.skipif(
    not PYTHON.exists(), reason="robomimic is not here; make its environment with: make robomimic"
)


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PYTHON), str(SCRIPT), *(str(argument) for argument in arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_without_robomimic_the_error_says_how_it_is_had(tmp_path: Path) -> None:
    done = run_script(SCRIPT, "--output-dir", tmp_path / "new")
    assert_user_error(done, "robomimic is not installed here", "make robomimic")
    assert not (tmp_path / "new").exists()


@needs_robomimic
@pytest.mark.slow
def test_robomimics_scripts_read_play_back_and_train_on_our_file(demo_file: Path, tmp_path: Path) -> None:
    before = demo_file.read_bytes()
    arguments = ("--data", demo_file, "--output-dir", tmp_path, "--num-demos", 1, "--steps", 2, "--rollout-steps", 3)
    done = _run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert demo_file.read_bytes() == before
    assert "total trajectories: 3" in done.stdout
    with h5py.File(demo_file) as file:
        stored = file["data/demo_0/images"][::5]
    for name, most in (("pictures.mp4", 3), ("states.mp4", 6)):
        shown = list(imageio.get_reader(tmp_path / name).iter_data())
        assert len(shown) == len(stored)
        for theirs, ours in zip(shown, stored, strict=True):
            small = np.asarray(Image.fromarray(theirs).resize(ours.shape[:2], Image.Resampling.BOX)).astype(int)
            assert np.abs(small - ours).mean() < most  # levels of 255; upside down, it would be tens
    assert len(list(tmp_path.glob("trained/bc_image/*/models/*.pth"))) == 1
    settings = json.loads(next(tmp_path.glob("trained/bc_image/*/config.json")).read_text())
    assert settings["observation"]["modalities"]["obs"]["rgb"] == ["agentview_image"]
    assert settings["train"]["hdf5_filter_key"] == "train"


@needs_robomimic
@pytest.mark.slow
def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert_user_error(_run("--data", tmp_path / "none.hdf5", "--output-dir", tmp_path), "no demonstrations")
