"""The methods and sleep phases, each `(model, x, y, key=...) -> update`. Imports `_average` and below."""
