"""What a training run leaves on disk, and how it is read back. Imports `_network` and below."""
