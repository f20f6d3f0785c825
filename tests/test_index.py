"""The index of a demonstration file: choosing opens no demonstration, and nothing is read that it does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.test_untrusted_demos import write_demos
from vla import stages
from vla.demos.dataset_table import dataset_table
from vla.demos.index import DemoRow, read_index, write_index
from vla.demos.merging import merge_files, new_file
from vla.demos.schema import checked_demo, open_demos, read_demo
from vla.errors import UserError
from vla.training.demonstrations import Demonstrations

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.hdf5"
    write_demos(path)
    return path


@pytest.fixture
def indexed(tiny: Path, tmp_path: Path) -> Path:
    """Two demonstrations with an index."""
    path = tmp_path / "demos.hdf5"
    path.write_bytes(tiny.read_bytes())
    with h5py.File(path, "a") as file:
        write_index(file)
    return path


def _large(tiny: Path, path: Path, count: int) -> Path:
    """Write `count` demonstrations as the writers of whole files do."""
    with h5py.File(tiny) as source, new_file(path) as joined:
        for number in range(count):
            joined.add(source["data/demo_0"], "train" if number < count - 2 else "valid")
        joined.finish(dict(source["data"].attrs))
    return path


def test_every_writer_of_whole_files_stores_what_the_attributes_say(demo_file: Path) -> None:
    with open_demos(demo_file) as file:
        assert set(file) == {"data", "mask", "index"}
        assert read_index(file) == {name: DemoRow.of(demo) for name, demo in file["data"].items()}
        assert [row.seed for row in read_index(file).values()] == [0, 1, 2]


def test_a_file_without_an_index_says_the_same(indexed: Path, tiny: Path) -> None:
    with open_demos(indexed) as file, open_demos(tiny) as without:
        assert read_index(file) == read_index(without)
        assert read_demo(checked_demo(without, "demo_1")).seed == 0
    chosen = [Demonstrations.select(path, None, None) for path in (indexed, tiny)]
    assert [each.content_sha256 for each in chosen] == 2 * [chosen[0].content_sha256]
    assert chosen[0].instructions == chosen[1].instructions


def test_opening_and_choosing_open_no_more_of_a_large_file_than_of_a_small_one(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    whole = h5py.Group.__getitem__

    def counted(group: h5py.Group, name: Any) -> Any:
        opened.append(name)
        return whole(group, name)

    counts = []
    for count in (10, 200):
        path = _large(tiny, tmp_path / f"{count}.hdf5", count)
        opened.clear()
        with monkeypatch.context() as patch:
            patch.setattr(h5py.Group, "__getitem__", counted)
            with open_demos(path) as file:
                names = stages.dataset_loader().selected_names(file, "train", None)
                index = read_index(file)
                assert len([name for name in names if index[name].success]) == count - 2
                assert f"Total episodes | 50 | {count}" in re.sub(" +", " ", dataset_table(file, path))
        counts.append(len(opened))
    assert counts[0] == counts[1] < 100
    assert {name for name in opened if str(name).startswith("demo_")} == {"demo_0"}  # Table 2 has the size of an image


def _set(name: str, values: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[f"index/{name}"]
        file[f"index/{name}"] = values

    return change


def _replace_index(file: h5py.File) -> None:
    del file["index"]
    file["index"] = np.zeros(2)


def _claim(file: h5py.File) -> None:
    del file["index/seed"]
    file["index"].create_dataset("seed", (10**12,), "i8", chunks=True)


INDEXES: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "no group": (_replace_index, "is not of its demonstrations"),
    "a demonstration too many": (lambda file: file.copy("data/demo_0", "data/demo_2"), "shape"),
    "a gap in the numbers": (lambda file: file.copy("data/demo_0", "data/demo_3"), "is not of its demonstrations"),
    "another name": (lambda file: file.move("data/demo_1", "data/demo_01"), "mask/valid"),
    "a column behind a link": (_set("seed", h5py.ExternalLink("elsewhere.hdf5", "/x")), "link"),
    "a column is missing": (lambda file: file["index"].__delitem__("success"), "is no array"),
    "a column without end": (_claim, "claims"),
    "a row too few": (_set("episode_length", np.array([3])), "shape"),
    "seeds in parts": (_set("seed", np.array([0.5, 1])), "no whole numbers"),
    "lengths below zero": (_set("episode_length", np.array([3, -3])), "a length that no demonstration has"),
    "lengths without end": (_set("episode_length", np.array([3, 2**60])), "a length that no demonstration has"),
    "an unknown instruction": (_set("instruction", np.array([0, 1])), "an instruction that it does not hold"),
    "an instruction from behind": (_set("instruction", np.array([0, -1])), "an instruction that it does not hold"),
    "instructions in numbers": (_set("instructions", np.array([1])), "no list of instructions"),
    "an endless instruction": (_set("instructions", np.array([b"x" * 5000])), "no list of instructions"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_a_bad_index_is_refused_in_one_line_when_the_file_is_opened(kind: str, indexed: Path) -> None:
    change, words = INDEXES[kind]
    with h5py.File(indexed, "a") as file:
        change(file)
    with pytest.raises(UserError) as refused, open_demos(indexed):
        pytest.fail("it was opened")
    message = str(refused.value)
    assert words in message
    assert message.startswith(str(indexed))
    assert "\n" not in message
    assert "python 1_collect_demos.py" in message


@pytest.mark.parametrize(
    ("attribute", "value"), [("seed", 7), ("success", False), ("language_instruction", "Push the cube")]
)
def test_a_demonstration_must_be_what_the_index_says(attribute: str, value: object, indexed: Path) -> None:
    with h5py.File(indexed, "a") as file:
        file["data/demo_1"].attrs[attribute] = value
    with open_demos(indexed) as file:
        checked_demo(file, "demo_0")
    with pytest.raises(UserError, match="demo_1 has another seed") as refused, open_demos(indexed) as file:
        checked_demo(file, "demo_1")
    assert "delete that group" in str(refused.value)
    with h5py.File(indexed, "a") as file:
        del file["index"]
    with open_demos(indexed) as file:
        assert checked_demo(file, "demo_1").attrs[attribute] == value


READERS: dict[str, Callable[[Path], object]] = {
    "training's choice": lambda path: Demonstrations.select(path, None, None),
    "the dataset": lambda path: stages.dataset_loader().LiftDataset(path, ["demo_0", "demo_1"]),
    "the inspection": lambda path: stages.dataset_loader().main(
        stages.dataset_loader().InspectOptions(path, path.parent / "page")
    ),
    "a merge": lambda path: merge_files([path, _other(path)], path.with_name("joined.hdf5")),
}


def _other(path: Path) -> Path:
    """The same demonstrations, with other seeds."""
    other = path.with_name("other.hdf5")
    other.write_bytes(path.read_bytes())
    with h5py.File(other, "a") as file:
        for demo in file["data"].values():
            demo.attrs["seed"] += 100
        del file["index"], file["data/demo_1/obs/x"]
    return other


@pytest.mark.parametrize("reader", READERS)
def test_a_bad_demonstration_behind_a_good_index_is_refused_by_who_reads_it(reader: str, indexed: Path) -> None:
    with h5py.File(indexed, "a") as file:
        file["data/demo_1/obs/x"] = h5py.ExternalLink("elsewhere.hdf5", "/x")
    with open_demos(indexed):  # the index says nothing of it
        pass
    with pytest.raises(UserError, match="demo_1/obs/x is a soft or an external link"):
        READERS[reader](indexed)
    assert not indexed.with_name("joined.hdf5").exists()


def test_nothing_reads_demonstrations_past_the_check() -> None:
    """Whoever needs a demonstration of a file asks `checked_demos` for it; nobody takes it out of the group `data`."""
    unchecked = re.compile(r'\["data"\](\[|\.(values|items|get)\()|\["data/')
    allowed = {"vla/demos/importing.py", "vla/demos/index.py", "vla/demos/schema.py"}  # robomimic's files; the check
    sources = [*ROOT.glob("*.py"), *(path for part in ("vla", "integrations") for path in (ROOT / part).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)) for path in sources if unchecked.search(path.read_text(encoding="utf-8"))}
    assert found <= allowed
