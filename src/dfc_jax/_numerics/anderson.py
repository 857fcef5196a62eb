"""Anderson acceleration of fixed-point iterations, of depth two, for one sample.

From the last three points z and their images g = G(z), with f = g - z, the next point is

    z' = g - a dg - b dg',   |f - a df - b df'| as small as can be,

where dg and df are the last changes of g and f, dg' and df' those before (Walker & Ni, SIAM J. Numer. Anal.
49, 2011, with two columns, whose least-squares problem has a closed form).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from dfc_jax._numerics.arrays import Flag
from dfc_jax._numerics.trees import dot, minus


class Anderson(eqx.Module):
    """The last point and its image, and the last two changes of image and residual: zero at first."""

    point: PyTree
    image: PyTree
    changes: tuple[tuple[PyTree, PyTree], ...]  # the newest first
    begun: Flag

    @staticmethod
    def at(start: PyTree) -> "Anderson":
        """Before the first evaluation, for which `start` is the next point."""
        nothing = jax.tree.map(jnp.zeros_like, start)
        return Anderson(start, start, ((nothing, nothing), (nothing, nothing)), jnp.asarray(False))

    def after(self, point: PyTree, image: PyTree) -> "Anderson":
        """With one evaluation more; what the first one found is no change."""
        moved = jax.tree.map(lambda new, old: jnp.where(self.begun, new - old, 0), image, self.image)
        newest = moved, minus(moved, minus(point, self.point))
        return Anderson(point, image, (newest, self.changes[0]), jnp.asarray(True))

    def next_point(self) -> PyTree:
        """z'; a change that says nothing of its own, as that of a point that did not move, counts as none."""
        (new_image, new), (old_image, old) = self.changes
        residual = minus(self.image, self.point)
        one, other, both = dot(new, new), dot(old, old), dot(new, old)
        on_new, on_old = dot(new, residual), dot(old, residual)
        determinant = one * other - both**2
        independent = determinant > _INDEPENDENT * one * other
        safe = jnp.where(independent, determinant, 1)
        alone = jnp.where(one > 0, on_new / jnp.where(one > 0, one, 1), 0)
        a = jnp.where(independent, (other * on_new - both * on_old) / safe, alone)
        b = jnp.where(independent, (one * on_old - both * on_new) / safe, 0)
        return jax.tree.map(lambda g, x, y: g - a * x - b * y, self.image, new_image, old_image)


# The squared sine of the angle between two changes below which the older one counts as none.
_INDEPENDENT = 1e-5
