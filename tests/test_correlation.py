"""The primitive behind convolutions: against XLA's own convolution, its derivatives and batches of it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from dfc_jax._numerics.cross_correlation import correlate


CASES = {  # stride, edges, spread, and the size of the maps
    "padded": (1, ((1, 1), (1, 1)), 1, (5, 6)),
    "strided": (2, ((1, 1), (1, 1)), 1, (6, 7)),
    "lopsided": (3, ((0, 2), (1, 0)), 1, (8, 7)),
    "spread": (2, ((2, 1), (0, 1)), 2, (5, 4)),
    "bare": (1, ((0, 0), (0, 0)), 1, (4, 4)),
}


def _second_derivatives(f, maps, kernel):
    first = jax.grad(lambda maps, kernel: jnp.sum(f(maps, kernel) ** 3), argnums=(0, 1))
    sizes = lambda maps, kernel: sum(jnp.sum(part**2) for part in first(maps, kernel))
    return jax.grad(sizes, argnums=(0, 1))(maps, kernel)


@pytest.mark.parametrize("case", CASES)
def test_it_is_a_convolution_with_its_derivatives_and_batches(case, getkey):
    stride, edges, spread, size = CASES[case]
    order = ("NHWC", "HWIO", "NHWC")

    def ours(maps, kernel):
        return correlate(maps, kernel, stride=stride, edges=edges, spread=spread)

    def theirs(maps, kernel):
        strides, spreads = (stride, stride), (spread, spread)
        return jax.lax.conv_general_dilated(maps, kernel, strides, edges, spreads, dimension_numbers=order)

    maps, kernel = jr.normal(getkey(), (2, *size, 3)), jr.normal(getkey(), (3, 3, 3, 4))
    cotangent = jr.normal(getkey(), jax.eval_shape(theirs, maps, kernel).shape)
    change = jr.normal(getkey(), maps.shape), jr.normal(getkey(), kernel.shape)
    several = jr.normal(getkey(), (5, *maps.shape)), jr.normal(getkey(), (5, *kernel.shape))

    def of(f):
        found = {
            "value": f(maps, kernel),
            "pulled back": jax.vjp(f, maps, kernel)[1](cotangent),
            "pushed forward": jax.jvp(f, (maps, kernel), change)[1],
            "second derivatives": _second_derivatives(f, maps, kernel),
        }
        for axes in ((0, None), (None, 0), (0, 0)):
            given = [b if axis == 0 else a for a, b, axis in zip((maps, kernel), several, axes, strict=True)]
            found[f"batched along {axes}"] = jax.vmap(f, axes)(*given)
        last = jnp.moveaxis(several[0], 0, -1)
        return found | {"batched along the last axis": jax.vmap(f, (4, None), 4)(last, kernel)}

    found, wanted = (jax.jit(of, static_argnums=0)(f) for f in (ours, theirs))
    for name, arrays in wanted.items():
        for a, b in zip(jax.tree.leaves(found[name]), jax.tree.leaves(arrays), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)
