"""What is measured of networks under control, and why they fail. Imports `_methods` and below."""
