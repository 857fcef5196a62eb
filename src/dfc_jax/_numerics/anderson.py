"""Anderson acceleration of fixed-point iterations, of depth two, for one sample.

From the last three points z and their images g = G(z), with f = g - z, the next point is

    z' = g - a dg - b dg',   |f - a df - b df'| as small as can be,

where dg and df are the last changes of g and f, dg' and df' those before (Walker & Ni, SIAM J. Numer. Anal.
49, 2011, with two columns, whose least-squares problem has a closed form). The norm may be that of a part of
f: where the parts follow from one another, all of them tell the same.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dfc_jax._numerics.arrays import Flag, Scalar
from dfc_jax._numerics.trees import minus


_Residual = Float[Array, "..."]


class Anderson(eqx.Module):
    """The last image and its residual, and the last two changes of both: zero at first."""

    image: PyTree
    residual: _Residual
    changes: tuple[tuple[PyTree, _Residual], ...]  # the newest first
    begun: Flag

    @staticmethod
    def at(start: PyTree, residual: _Residual) -> "Anderson":
        """Before the first evaluation, for which `start` is the next point; residuals are like `residual`."""
        nothing = jax.tree.map(jnp.zeros_like, (start, residual))
        return Anderson(start, nothing[1], (nothing, nothing), jnp.asarray(False))

    def after(self, image: PyTree, residual: _Residual) -> "Anderson":
        """With one evaluation more; what the first one found is no change."""
        counted = lambda change: jax.tree.map(lambda leaf: jnp.where(self.begun, leaf, 0), change)
        newest = counted(minus((image, residual), (self.image, self.residual)))
        return Anderson(image, residual, (newest, counted(self.changes[0])), jnp.asarray(True))

    def next_point(self) -> PyTree:
        """z'; a change that says nothing of its own, as that of a point that did not move, counts as none."""
        (new_image, new), (old_image, old) = self.changes
        one, other, both = _dot(new, new), _dot(old, old), _dot(new, old)
        on_new, on_old = _dot(new, self.residual), _dot(old, self.residual)
        determinant = one * other - both**2
        independent = determinant > _INDEPENDENT * one * other
        safe = jnp.where(independent, determinant, 1)
        alone = jnp.where(one > 0, on_new / jnp.where(one > 0, one, 1), 0)
        a = jnp.where(independent, (other * on_new - both * on_old) / safe, alone)
        b = jnp.where(independent, (one * on_old - both * on_new) / safe, 0)
        point = lambda g, x, y: jnp.where(self.begun, g - a * x - b * y, g)
        return jax.tree.map(point, self.image, new_image, old_image)


def _dot(one: _Residual, other: _Residual) -> Scalar:
    return jnp.sum(one * other)


# The squared sine of the angle between two changes below which the older one counts as none.
_INDEPENDENT = 1e-5
