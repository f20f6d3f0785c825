"""Brings a file of an older schema to the present one: every demonstration is simulated again from its actions.

What the present schema stores beyond the older one is taken from the simulation, and so is everything that the older
rules measured otherwise. What does not repeat, or does not pass the present verdict, is left out and named.
"""

from __future__ import annotations

from pathlib import Path

import h5py

from vla.demos.hdf5_checks import attribute_text
from vla.demos.recorder import demo_from_steps
from vla.demos.remaking import LEFT_OUT, RemakeTask, remake
from vla.demos.resimulation import Recorded, resimulate
from vla.demos.schema import (
    OLDER_VERSIONS,
    SCHEMA_VERSION,
    checked_demo,
    checked_demos,
    demo_names,
    open_demos,
    write_demo,
)
from vla.files import atomic_path
from vla.sim.config import EnvConfig, warn_of_version_drift
from vla.sim.workers import simulator

MORE_STEPS = 1
"""How many times the last action may be executed again: until schema 5, a hold was one state shorter than a second."""
FROM, RECORDED_STEPS = "migrated_from", "recorded_steps"
"""Attributes of a migrated demonstration: the schema that it was recorded in, and its steps there."""


def migrate_in_worker(task: RemakeTask) -> None:
    """Migrate a demonstration with this worker's simulator."""
    sim = simulator()
    with h5py.File(task.path, "r") as source:
        version = int(source["data"].attrs["schema_version"])
        recorded = Recorded.read(checked_demo(source, task.name))
    again = resimulate(sim, recorded, MORE_STEPS)
    with atomic_path(task.part) as temporary, h5py.File(temporary, "w") as file:
        file.attrs[LEFT_OUT] = again.fault or ""
        if again.fault is None:
            group = file.create_group(task.name)
            demo = demo_from_steps(again.steps, recorded.instruction, recorded.seed, recorded.layout, recorded.target)
            write_demo(group, demo, sim.model_xml())
            group.attrs[FROM], group.attrs[RECORDED_STEPS] = version, len(recorded)


def migrate_file(path: Path, output: Path, workers: int) -> None:
    """Write the demonstrations of an older file into a new one of the present schema; prints what became of them.

    Raises:
        UserError: `path` is no whole file of an older schema, `output` exists already, or nothing can be migrated.
        MachineError: a simulator failed.
    """
    with open_demos(path, OLDER_VERSIONS) as source:
        env_args = attribute_text(source["data"].attrs["env_args"])
        warn_of_version_drift(env_args, str(path))
        found, total = int(source["data"].attrs["schema_version"]), len(source["data"])
        settings = {"migrated_to": SCHEMA_VERSION}
        left_out = remake(source, output, migrate_in_worker, EnvConfig.from_env_args(env_args), settings, workers)
    for name, reason in left_out.items():
        print(f"left out {name}: {reason}")
    with open_demos(output) as file:
        demos = checked_demos(file, demo_names(file))
        added = [demo.attrs["episode_length"] - demo.attrs[RECORDED_STEPS] for _, demo in demos]
    print(
        f"{output}: {len(added)} of {total} demonstrations migrated from schema {found} to {SCHEMA_VERSION}; "
        f"{sum(more > 0 for more in added)} hold one more step than was recorded, {sum(more < 0 for more in added)} "
        "pass the verdict earlier and end there"
    )
