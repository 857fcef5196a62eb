"""The closed loop of network and controller: its parts, its equations, its simulation and its stability.

Imports `_network` and below.
"""
