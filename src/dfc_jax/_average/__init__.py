"""Averages of the forward rule over the controlled trajectory. Imports `_steady_state` and below."""
