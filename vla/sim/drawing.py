"""Draws what a camera sees, and leaves out what it cannot see: the same picture, to the bit, in less time.

Without a GPU, the time that MuJoCo takes goes by the number of triangles. Of the arm's 168,000, a camera that looks at
the table sees a part. A mesh that is outside of the view is left out of the picture. So are single triangles of the
meshes that never move, the arm's base and its pedestal, if they are outside of the view, show their backs, or are
behind the table.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MARGIN_M = 1e-3
"""What is nearer than this to the edge of the view, or of the table, is drawn."""
OCCLUDER = "table_visual"
"""The box behind which nothing is seen."""


class View(NamedTuple):
    """The pyramid that a camera sees."""

    position: np.ndarray
    """(3,) of the camera, metres."""
    normals: np.ndarray
    """(4, 3) of length 1: of the planes on its sides, outwards."""


def view_of(scene: Any) -> View:
    """The view of a `mujoco.MjvScene` whose picture is square, which MuJoCo draws from between the scene's two eyes."""
    left, right_eye = scene.camera
    ahead, up = np.array(left.forward, np.float64), np.array(left.up, np.float64)
    right = np.cross(ahead, up)
    near, half = left.frustum_near, (left.frustum_top - left.frustum_bottom) / 2
    normals = np.stack([near * side - half * ahead for side in (right, -right, up, -up)])
    position = (np.array(left.pos, np.float64) + np.array(right_eye.pos, np.float64)) / 2
    return View(position, normals / np.linalg.norm(normals, axis=1, keepdims=True))


class Drawing:
    """The pictures of one camera, in a GL context of their own. Shadows and reflections are off."""

    def __init__(self, model: Any, camera: str, size_px: int) -> None:
        """Make the context, which takes the place of any other one of this thread.

        Args:
            model: the `mujoco.MjModel`; its offscreen buffer becomes as large as the picture.
            camera: name of the camera.
            size_px: width and height of the picture.
        """
        self._mujoco = mujoco = importlib.import_module("mujoco")  # after the GL backend has been chosen
        self._model = model
        self._size_px = size_px
        model.vis.global_.offwidth = model.vis.global_.offheight = size_px
        self._rectangle = mujoco.MjrRect(0, 0, size_px, size_px)
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # hides the collision shapes
        self._camera = mujoco.MjvCamera()
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(camera).id
        self._window = mujoco.GLContext(size_px, size_px)
        self._window.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        is_mesh = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_group != 0)
        self._meshes = np.flatnonzero(is_mesh)
        self._still = _StillMeshes(model, self._meshes)

    def draw(self, data: Any, add: Callable[[Any], None] | None = None) -> np.ndarray:
        """The picture of a state, (H, W, 3) uint8 upright RGB; `add` may add to the `mujoco.MjvScene`."""
        mujoco, scene = self._mujoco, self._scene
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, scene)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            scene.flags[flag] = 0
        self._window.make_current()
        view = view_of(scene)
        self._still.upload(data, view, self._context)
        self._leave_out(data, view)
        if add is not None:
            add(scene)
        mujoco.mjr_render(self._rectangle, scene, self._context)
        image = np.empty((self._size_px, self._size_px, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, self._rectangle, self._context)
        return image[::-1].copy()

    def close(self) -> None:
        """Free the GL context."""
        self._context.free()
        self._window.free()

    def _leave_out(self, data: Any, view: View) -> None:
        """Empty the scene's meshes that are outside of the view."""
        boxes = self._model.geom_aabb[self._meshes]  # (n, 6): centres and half sizes
        turned = data.geom_xmat[self._meshes].reshape(-1, 3, 3)
        centres = data.geom_xpos[self._meshes] + np.einsum("nij,nj->ni", turned, boxes[:, :3])
        across = np.abs(np.einsum("pi,nij->npj", view.normals, turned))
        nearest = (centres - view.position) @ view.normals.T - np.einsum("npj,nj->np", across, boxes[:, 3:])
        gone = set(self._meshes[(nearest > MARGIN_M).any(axis=1)].tolist())
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objid in gone and geom.objtype == self._mujoco.mjtObj.mjOBJ_GEOM:
                geom.dataid = -1


class _StillMeshes:
    """The triangles of meshes that never move, of which a context holds those that can be seen.

    It holds all of them where the camera, the table or one of these meshes is not where it was in the first picture, as
    under a perturbation.
    """

    def __init__(self, model: Any, meshes: np.ndarray) -> None:
        """Find those among the geoms `meshes`."""
        moves = model.body_weldid[model.geom_bodyid] != 0
        uses = np.bincount(model.geom_dataid[meshes], minlength=model.nmesh)
        alone = uses[model.geom_dataid[meshes]] == 1
        opaque = _alpha(model)[meshes] == 1
        self._mujoco = importlib.import_module("mujoco")
        self._model = model
        self._geoms = meshes[~moves[meshes] & alone & opaque]
        names = [model.geom(number).name for number in range(model.ngeom)]
        self._table = names.index(OCCLUDER) if OCCLUDER in names else None
        self._first: np.ndarray | None = None
        self._is_trimmed = False

    def upload(self, data: Any, view: View, context: Any) -> None:
        """Give the `mujoco.MjrContext` the triangles for this picture, if it holds others."""
        now = self._what_counts(data, view)
        if self._first is None:
            self._first = now
        trimmed = np.array_equal(now, self._first)
        if trimmed == self._is_trimmed:
            return
        model = self._trimmed(data, view) if trimmed else self._model
        for geom in self._geoms:
            self._mujoco.mjr_uploadMesh(model, context, int(self._model.geom_dataid[geom]))
        self._is_trimmed = trimmed

    def _what_counts(self, data: Any, view: View) -> np.ndarray:
        """All that decides which triangles are seen, as one vector."""
        seen = [view.position, view.normals.ravel()]
        placed = self._geoms if self._table is None else np.append(self._geoms, self._table)
        seen += [data.geom_xpos[placed].ravel(), data.geom_xmat[placed].ravel(), _alpha(self._model)[placed]]
        if self._table is not None:
            seen.append(self._model.geom_size[self._table])
        return np.concatenate(seen)

    def _trimmed(self, data: Any, view: View) -> Any:
        """A copy of the model in which these meshes have only the triangles that can be seen."""
        model = copy.copy(self._model)
        for geom in self._geoms:
            mesh = int(model.geom_dataid[geom])
            faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
            vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
            placed = vertices @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
            seen = ~self._is_hidden(placed[model.mesh_face[faces]], data, view)
            kept = slice(faces.start, faces.start + int(seen.sum()))
            for array in (model.mesh_face, model.mesh_facenormal, model.mesh_facetexcoord):
                array[kept] = array[faces][seen]
            model.mesh_facenum[mesh] = kept.stop - kept.start
        return model

    def _is_hidden(self, triangles: np.ndarray, data: Any, view: View) -> np.ndarray:
        """Whether each of the triangles, (n, 3, 3) metres, is certainly not seen, (n,)."""
        rays = triangles - view.position
        outside = (rays @ view.normals.T > MARGIN_M).all(axis=1).any(axis=1)
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(rays[:, 0], axis=1)
        shows_back = (normals * rays[:, 0]).sum(axis=1) > 1e-4 * lengths
        hidden: np.ndarray = outside | shows_back
        if self._table is not None and _alpha(self._model)[self._table] == 1:
            # What a convex body hides from a point is convex: a triangle is hidden if its three corners are.
            turned = data.geom_xmat[self._table].reshape(3, 3)
            half = self._model.geom_size[self._table] - MARGIN_M
            start = (view.position - data.geom_xpos[self._table]) @ turned
            hidden |= _passes_box(start, rays @ turned, half).all(axis=1)
        return hidden


def _alpha(model: Any) -> np.ndarray:
    """Opacity of each geom, (ngeom,), in [0, 1]: its own or its material's, whichever is less."""
    opacity: np.ndarray = model.geom_rgba[:, 3].copy()
    painted = np.flatnonzero(model.geom_matid >= 0)
    opacity[painted] = np.minimum(opacity[painted], model.mat_rgba[model.geom_matid[painted], 3])
    return opacity


def _passes_box(start: np.ndarray, rays: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Whether the way from `start`, (3,), along each of `rays`, (..., 3), meets the box around 0, `half` its size."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-half - start) / rays, (half - start) / rays
    enter = np.minimum(first, second).max(axis=-1)
    leave = np.maximum(first, second).min(axis=-1)
    met: np.ndarray = (enter <= leave) & (enter >= 0) & (leave <= 1)
    return met
