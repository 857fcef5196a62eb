"""Data sets as arrays. Imports nothing else of the package but its checks and its lock of a folder."""
