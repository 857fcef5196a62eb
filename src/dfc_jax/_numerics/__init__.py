"""Small solvers and array functions that know nothing of DFC. Imports nothing else of the package."""
