"""The steady states of the closed loop, and the schemes that find them. Imports `_dynamics` and below."""
