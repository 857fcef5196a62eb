"""Broyden's method from a shared inverse Jacobian, for systems of many unknowns."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class SecantSolution(eqx.Module):
    """Where the iteration ended."""

    root: Float[Array, " n"]
    residual: Float[Array, " n"]
    iterations: Int[Array, ""]
    positive: Bool[Array, ""]  # whether -dF/du was positive along every step taken


class _State(eqx.Module):
    root: Float[Array, " n"]
    residual: Float[Array, " n"]
    steps: Float[Array, "memory n"]
    iterations: Int[Array, ""]
    positive: Bool[Array, ""]


def shared_inverse_broyden(
    function: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    at_zero: Float[Array, " n"],
    inverse: Float[Array, "n n"],
    threshold: Float[Array, ""],
    max_iterations: int,
) -> SecantSolution:
    """A root of F from u = 0, where F is `at_zero`, given an approximate inverse of -dF/du.

    Only the steps are stored, so that a batch can share `inverse`: the inverse Jacobian of a sample is the
    product of its steps' rank-one corrections with it (Kelley, Iterative Methods for Linear and Nonlinear
    Equations, 1995, ch. 7). Ends when |F| <= threshold.
    """

    def moved(state: _State, step: Float[Array, " n"]) -> _State:
        root = state.root + step
        residual = function(root)
        positive = state.positive & (step @ (state.residual - residual) > 0)
        steps = state.steps.at[state.iterations].set(step)
        return _State(root, residual, steps, state.iterations + 1, positive)

    def unfinished(state: _State) -> Bool[Array, ""]:
        size = jnp.linalg.norm(state.residual)
        return (size > threshold) & (state.iterations < max_iterations)

    def body(state: _State) -> _State:
        return moved(state, _next_step(state, inverse))

    memory = jnp.zeros((max_iterations, at_zero.size), at_zero.dtype)
    start = _State(jnp.zeros_like(at_zero), at_zero, memory, jnp.asarray(0), jnp.asarray(True))
    last = jax.lax.while_loop(unfinished, body, moved(start, inverse @ at_zero))
    return SecantSolution(last.root, last.residual, last.iterations, last.positive)


def _next_step(state: _State, inverse: Float[Array, "n n"]) -> Float[Array, " n"]:
    """H F for the secant inverse H, which each step s, followed by s', made (I + s' s^T / |s|^2) H."""

    def overlap(index: Int[Array, ""], vector: Float[Array, " n"]) -> Float[Array, ""]:
        step = state.steps[index]
        return (step @ vector) / (step @ step)

    def correct(index: Int[Array, ""], vector: Float[Array, " n"]) -> Float[Array, " n"]:
        return vector + overlap(index, vector) * state.steps[index + 1]

    newest = state.iterations - 1
    vector = jax.lax.fori_loop(0, newest, correct, inverse @ state.residual)
    return vector / (1 - overlap(newest, vector))
