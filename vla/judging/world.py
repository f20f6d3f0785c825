"""Watches the world of an episode: whatever physics takes as given must stay as it was, or its change be declared.

No list of tricks can be complete, so nothing here knows one. Every array of the MuJoCo model, every option, every
outside input of the state and the global callbacks are compared with their values of a fresh simulator; positions,
velocities and the clock with those that the last physics step left behind. A perturbation declares what it changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

BULK = ("bvh_", "flex_", "hfield_", "mesh_", "skin_", "tex_")
"""Prefixes of the model's large arrays (64 MB of meshes and textures). What collision detection reads of them is
compared at every step like everything else, the other meshes once, when an episode has ended."""
_DRAWN = ("bvh_", "mesh_facenormal", "mesh_facetexcoord", "mesh_normal", "mesh_texcoord", "tex_")
"""Prefixes of those of them that are only drawn, or met by rays; they are not compared."""
_INPUTS = ("xfrc_applied", "qfrc_applied", "mocap_pos", "mocap_quat", "eq_active", "userdata", "plugin_state")
"""What acts on the state from outside: forces, mocap bodies, active equality constraints, user and plugin inputs."""
_STATE = ("qpos", "qvel", "act", "history")
"""What only the physics may change."""
CLOCK = "time"
"""Name of the clock among the watched fields: `data.time`, and the number of physics steps behind it."""
_OBJECTS = {
    **{"body": "BODY", "xfrc": "BODY", "geom": "GEOM", "site": "SITE", "jnt": "JOINT", "actuator": "ACTUATOR"},
    **{"eq": "EQUALITY", "tendon": "TENDON", "cam": "CAMERA", "light": "LIGHT", "mat": "MATERIAL", "sensor": "SENSOR"},
}
"""MuJoCo's kind of object by the first word of an array that has a row for each of them."""


class WorldWatch:
    """Notices every change of the world that nobody declared.

    Made from a fresh simulator. `begin` starts an episode, and `remember` ends its set-up; `declare` allows a change
    that was just made, `stepped` says that the physics has moved the state, and `check` names the first undeclared
    change.
    """

    def __init__(self, model: Any, data: Any) -> None:
        """`model` is a `mujoco.MjModel`, `data` the live `mujoco.MjData`; both as they were made."""
        import mujoco  # not with the module: mujoco reads MUJOCO_GL when it is first imported

        self._model, self._data = model, data
        arrays = {name: value for name in _public(model) if isinstance(value := getattr(model, name), np.ndarray)}
        given = {name: view for name, view in arrays.items() if not name.startswith(BULK) and view.size}
        self._meshes = {
            name: view
            for name, view in arrays.items()
            if name.startswith(BULK) and not name.startswith(_DRAWN) and view.size
        }
        self._pristine_meshes = {name: view.tobytes() for name, view in self._meshes.items()}
        option_names = _public(model.opt)
        options = {f"opt.{name}": getattr(model.opt, name) for name in option_names}
        given |= {name: value for name, value in options.items() if isinstance(value, np.ndarray)}
        given |= {name: view for name in _INPUTS if (view := getattr(data, name)).size}
        self.fields = (*given, *(name for name in options if name not in given), *_STATE, CLOCK)
        """Names of everything that `declare` accepts; the meshes and textures are not among them."""
        given |= _colliding_meshes(model)
        self._names, self._views = list(given), list(given.values())
        self._scalars = [name for name in option_names if not isinstance(getattr(model.opt, name), np.ndarray)]
        self._callbacks = [getattr(mujoco, name) for name in _public(mujoco) if name.startswith("get_mjcb_")]
        self._state_views = {name: view for name in _STATE if (view := getattr(data, name)).size}
        self._step_timer = data.timer[int(mujoco.mjtTimer.mjTIMER_STEP)]
        self._pristine = [view.tobytes() for view in self._views]
        self._pristine_options = self._option_values()
        self._pristine_callbacks = self._callback_values()
        self.declared: tuple[str, ...] = ()
        """Fields whose change was declared in this episode."""
        self._undeclared = ""
        self.begin()

    def begin(self) -> None:
        """Begin an episode: nothing is declared, and the state may be set up until `remember` is called."""
        self._expected, self._expected_options = list(self._pristine), self._pristine_options
        self.declared = ()
        self._undeclared = ""
        self._state: dict[str, bytes] | None = None
        self._clock = (0.0, 0)

    def declare(self, *fields: str) -> None:
        """Allow the change of these fields that has just been made; a later one has to be declared again.

        Raises:
            ValueError: there is no such field.
        """
        self._accept(fields)
        self.declared = tuple(sorted({*self.declared, *fields}))

    def set_up(self, *fields: str) -> None:
        """Take the present values of these fields for those of the episode's scene, which its seed decides.

        Call it after `begin`, before anything else changes them. Nothing is declared by it: the scene is no
        perturbation.

        Raises:
            ValueError: there is no such field.
        """
        self._accept(fields)

    def _accept(self, fields: tuple[str, ...]) -> None:
        unknown = set(fields) - set(self.fields)
        if unknown:
            raise ValueError(f"the world has no fields {sorted(unknown)}; WorldWatch.fields lists them")
        for name in fields:
            if name in self._names:
                index = self._names.index(name)
                self._expected[index] = self._views[index].tobytes()
            elif name in self._expected_options:
                self._expected_options = {**self._expected_options, name: self._option_values()[name]}
            elif name == CLOCK:
                self._clock = self._read_clock()
            elif self._state is not None and name in self._state_views:
                self._state[name] = self._state_views[name].tobytes()

    def remember(self) -> None:
        """From now on only the physics may change positions, velocities and the clock."""
        self._state = {name: view.tobytes() for name, view in self._state_views.items()}
        self._clock = self._read_clock()

    def stepped(self) -> None:
        """Accept what the physics has just made of the state, if the clock advanced by as many steps as it took."""
        time, count = self._clock
        advanced, simulated = self._data.time - time, (self._step_timer.number - count) * self._model.opt.timestep
        if not self._undeclared and abs(simulated - advanced) > self._model.opt.timestep / 2:
            self._undeclared = f"{CLOCK} advanced by {1e3 * advanced:.1f} ms, the physics by {1e3 * simulated:.1f}"
        self.remember()

    def check(self, model: Any, data: Any) -> str:
        """Returns the first undeclared change of the episode in words; "" where nothing was changed.

        Args:
            model: the `mujoco.MjModel` that the simulator uses now.
            data: the `mujoco.MjData` that it uses now.
        """
        if not self._undeclared:
            self._undeclared = self._change(model, data)
        return self._undeclared

    def check_meshes(self) -> str:
        """As `check`, of all meshes, which takes a few milliseconds; for the end of an episode."""
        for name, view in self._meshes.items():
            if not self._undeclared and view.tobytes() != self._pristine_meshes[name]:
                self._undeclared = name
        return self._undeclared

    def _change(self, model: Any, data: Any) -> str:
        if model is not self._model or data is not self._data:
            return "the model or the state was replaced by another"
        current = [view.tobytes() for view in self._views]
        if current != self._expected:
            index = next(i for i, value in enumerate(current) if value != self._expected[i])
            return self._describe(index)
        if self._option_values() != self._expected_options:
            values, expected = self._option_values(), self._expected_options
            return next(
                f"{name} from {expected[name]} to {values[name]}" for name in values if values[name] != expected[name]
            )
        if self._callback_values() != self._pristine_callbacks:
            return "a global callback of MuJoCo was set"
        if self._state is not None:
            if self._data.time != self._clock[0]:
                return f"{CLOCK} from {self._clock[0]:.3f} to {self._data.time:.3f} s between two steps"
            for name, view in self._state_views.items():
                if view.tobytes() != self._state[name]:
                    return f"{name} between two steps"
        return ""

    def _describe(self, index: int) -> str:
        """Name the first element of a changed array, what it was and what it is."""
        import mujoco

        name, view = self._names[index], self._views[index]
        was = np.frombuffer(self._expected[index], dtype=view.dtype).reshape(view.shape)
        row = int(np.argwhere(was != view)[0, 0])
        kind = _OBJECTS.get(name.partition("_")[0])
        found = kind and mujoco.mj_id2name(self._model, getattr(mujoco.mjtObj, f"mjOBJ_{kind}"), row)
        return f"{name}{f' of {found}' if found else ''} from {_short(was[row])} to {_short(view[row])}"

    def _read_clock(self) -> tuple[float, int]:
        return self._data.time, self._step_timer.number

    def _option_values(self) -> dict[str, Any]:
        return {f"opt.{name}": getattr(self._model.opt, name) for name in self._scalars}

    def _callback_values(self) -> list[Any]:
        return [get() for get in self._callbacks]


def _colliding_meshes(model: Any) -> dict[str, np.ndarray]:
    """The rows of the large arrays that collision detection reads, by name: those of meshes that can collide, the
    tables of all meshes, and the trees of all bodies, which come first."""
    import mujoco

    tables = [name for name in _public(model) if name.startswith("mesh_") and len(getattr(model, name)) == model.nmesh]
    parts = {name: getattr(model, name) for name in tables}
    trees = int(model.body_bvhnum.sum())
    parts |= {f"{name} of bodies": getattr(model, name)[:trees] for name in ("bvh_aabb", "bvh_child", "bvh_nodeid")}
    can_collide = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    graph_ends = np.append(model.mesh_graphadr, len(model.mesh_graph))
    for mesh in np.unique(model.geom_dataid[can_collide & (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)]):
        first, polygon, graph = model.mesh_vertadr[mesh], model.mesh_polyadr[mesh], model.mesh_graphadr[mesh]
        graph_end = graph_ends[graph_ends > graph].min()
        rows = {
            "mesh_vert": slice(first, first + model.mesh_vertnum[mesh]),
            "mesh_polynormal": slice(polygon, polygon + model.mesh_polynum[mesh]),
            "mesh_graph": slice(graph, graph_end if graph >= 0 else graph),
        }
        name = model.mesh(int(mesh)).name
        parts |= {f"{array} of {name}": getattr(model, array)[chosen] for array, chosen in rows.items()}
    return {name: view for name, view in parts.items() if view.size}


def _public(owner: Any) -> list[str]:
    return [name for name in dir(owner) if not name.startswith("_")]


def _short(value: np.ndarray) -> str:
    """A value as people read it."""
    return np.array2string(np.asarray(value), precision=4, separator=", ", max_line_width=200)
