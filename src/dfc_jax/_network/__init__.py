"""Networks: layers, activations, feedback weights and the local rules of plasticity. Imports `_numerics`."""
