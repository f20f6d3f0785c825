"""`1_collect_demos.py` as a command: what it writes, how it continues, and which files it never touches."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imageio.v2 as imageio
import numpy as np
import pytest

from tests.conftest import ROOT, assert_user_error, run_script, wait_for
from vla.demos.parts import prepare_parts, remove_parts
from vla.errors import UserError
from vla.files import run_lock
from vla.sim.config import EnvConfig

COLLECT = ROOT / "1_collect_demos.py"
collection = importlib.import_module("1_collect_demos")


@pytest.mark.slow
def test_collection_reports_and_films(collected: Path) -> None:
    text = (collected / "collect.txt").read_text()
    assert "| Total episodes                       | 50            | 3" in text
    frames = imageio.mimread(collected / "videos/data_demo_ep2.mp4", memtest=False)
    assert len(frames) > 30
    assert frames[0].shape == (448, 800, 3)
    assert not list((collected / "data").glob("*.parts"))


@pytest.mark.slow
def test_collection_does_not_repeat_or_clobber(collected: Path) -> None:
    before = (collected / "data/lift_demos.hdf5").stat().st_mtime_ns
    again = run_script(COLLECT, "--num-episodes", "3", "--video-episodes", cwd=collected)
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stdout
    parts = collected / "data/new.hdf5.parts"
    parts.mkdir()
    (parts / "settings.json").write_text(json.dumps({"versions": {"mujoco": "1.0"}}))
    mixed = run_script(COLLECT, "--output", "data/new.hdf5", cwd=collected)
    assert_user_error(mixed, "interrupted collection", "'mujoco': '1.0'", "another --output", "--overwrite")
    shutil.rmtree(parts)
    other = run_script(COLLECT, "--num-episodes", "4", cwd=collected)
    assert_user_error(other, "another --output", "give up its 3 demonstrations with --overwrite")
    assert (collected / "data/lift_demos.hdf5").stat().st_mtime_ns == before


def _write_robomimic_file(path: Path) -> None:
    """Write a file as robomimic's own data sets are laid out, which our schema extends."""
    with h5py.File(path, "w") as file:
        file.attrs["date"] = "2022-02-02"
        file["data/demo_0/actions"] = np.zeros((5, 7))
        file["data/demo_0/obs/agentview_image"] = np.zeros((5, 84, 84, 3), dtype=np.uint8)
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        file["data"].attrs["total"] = 5
        file["mask/train"] = np.array([b"demo_0"])


def _write_half_a_file(path: Path) -> None:
    """Write the beginning of an HDF5 file, as an interrupted copy leaves it."""
    _write_robomimic_file(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.slow
@pytest.mark.parametrize("write", [_write_robomimic_file, pytest.param(_write_half_a_file, marks=pytest.mark.slow)])
def test_a_file_that_the_collection_did_not_write_is_never_replaced(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a colleague's.hdf5"
    write(path)
    before = path.read_bytes()
    done = run_script(COLLECT, "--num-episodes", "1", "--output", path, "--overwrite", cwd=tmp_path)
    assert_user_error(done, "never replaced", "another --output", "mv -n '")
    assert path.read_bytes() == before
    # The command that the message gives: it moves the file and keeps its content.
    command = done.stderr.strip().rpartition("move it away: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert not path.exists()
    assert Path(f"{path}.old").read_bytes() == before


@pytest.mark.slow
def test_a_second_collection_into_the_same_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    with run_lock(path, is_file=True):
        done = run_script(COLLECT, "--num-episodes", "1", "--output", path, cwd=tmp_path)
    assert_user_error(done, f"another run is writing to {path}", "name another output")
    assert not path.exists()


def test_only_the_collections_own_files_are_cleared_away(tmp_path: Path) -> None:
    output = tmp_path / "demos.hdf5"
    parts = prepare_parts(output, {"seed": 0}, range(2), overwrite=False)
    folder = parts[0].parent
    parts[0].write_text("a demonstration")
    (folder / ".demo_00001.tmp-0123456789ab.hdf5").write_text("half of one, by a run that was killed")
    (folder / "notes.txt").write_text("the user's")
    again = prepare_parts(output, {"seed": 0}, range(2), overwrite=False)
    assert [path.exists() for path in again.values()] == [True, False]
    remove_parts(output)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    remove_parts(output)
    assert not folder.exists()


def test_a_complete_file_keeps_the_parts_of_another_round(
    demo_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demos.hdf5"
    shutil.copy(demo_file, output)
    options = collection.CollectOptions(output=output, num_episodes=3, video_episodes=())
    dagger = {**options.settings(), "dagger": "hash of a policy"}
    with h5py.File(output, "a") as file:
        file["data"].attrs["collection"] = json.dumps([options.settings(), dagger])
    part = prepare_parts(output, {**dagger, "seed": 1000}, range(1), overwrite=False)[0]
    part.write_text("a demonstration of an interrupted round")
    collection.main(options)
    assert part.exists()
    assert "--overwrite would give up the DAgger rounds in it too" in capsys.readouterr().out
    remove_parts(output)
    prepare_parts(output, options.settings(), range(1), overwrite=False)[0].write_text("already merged")
    collection.main(options)
    assert not part.parent.exists()


@pytest.mark.slow
def test_killed_collection_continues_to_the_same_episodes(collected: Path, tmp_path: Path) -> None:
    arguments = ("--num-episodes", "4", "--workers", "1", "--video-episodes")
    command = [sys.executable, str(COLLECT), *arguments]
    victim = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    parts = tmp_path / "data/lift_demos.hdf5.parts"
    wait_for(lambda: len(list(parts.glob("demo_*.hdf5"))) >= 2)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "data/lift_demos.hdf5").exists()
    done = run_script(COLLECT, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "continuing" in done.stdout
    with h5py.File(tmp_path / "data/lift_demos.hdf5") as here, h5py.File(collected / "data/lift_demos.hdf5") as there:
        for name in ("demo_0", "demo_1", "demo_2"):
            for key in ("images", "actions", "states"):
                np.testing.assert_array_equal(here[f"data/{name}/{key}"], there[f"data/{name}/{key}"])


@pytest.mark.slow
def test_interrupted_collection_says_how_to_continue(tmp_path: Path) -> None:
    command = [sys.executable, str(COLLECT), "--num-episodes", "8"]
    victim = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    parts = tmp_path / "data/lift_demos.hdf5.parts"
    wait_for(lambda: bool(list(parts.glob("demo_*.hdf5"))))
    os.killpg(victim.pid, signal.SIGINT)
    _, errors = victim.communicate(timeout=60)
    assert victim.returncode == 130
    assert "run the same command again; it continues" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_gl_backend_that_does_not_work_is_reported_in_one_line(tmp_path: Path) -> None:
    done = run_script(COLLECT, "--num-episodes", "1", cwd=tmp_path, MUJOCO_GL="nonesuch")
    assert_user_error(done, "MUJOCO_GL=nonesuch", "apt-get install")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cubes": (1, 2)}, r"holds 2 to 4 cubes, got \(1, 2\)"),
        ({"same_colour_share": 2.0}, r"lies in \[0, 1\], got 2.0"),
        ({"num_episodes": 3}, "multiple of --demos-per-seed.* got 3 and 2"),
        ({"demos_per_seed": 0}, "at least 1, got 4 and 0"),
    ],
)
def test_a_scene_that_cannot_be_collected_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        collection.CollectOptions(**{"scene": "cubes", "num_episodes": 4, **options})


def test_each_scene_has_a_file_and_settings_of_its_own() -> None:
    lift, cubes = collection.CollectOptions(), collection.CollectOptions(scene="cubes")
    assert (lift.file, cubes.file) == (Path("data/lift_demos.hdf5"), Path("data/cubes_demos.hdf5"))
    assert "scene" not in lift.settings()  # files of the scene lift are the same as before there were others
    assert cubes.settings()["scene"] == {"kind": "cubes", "counts": [2, 3, 4], "same_colour_share": 0.25}
    assert json.loads(json.dumps(cubes.settings())) == cubes.settings()
    assert EnvConfig.from_env_args(cubes.env().to_env_args()) == cubes.env()
