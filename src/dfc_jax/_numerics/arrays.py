"""Names for the arrays that recur everywhere."""

from jaxtyping import Array, Bool, Float


Scalar = Float[Array, ""]
Flag = Bool[Array, ""]
OutputVector = Float[Array, " out"]  # of one sample
OutputMatrix = Float[Array, "out out"]
BatchInputs = Float[Array, "batch ..."]
BatchOutputs = Float[Array, "batch out"]
BatchFlags = Bool[Array, " batch"]
