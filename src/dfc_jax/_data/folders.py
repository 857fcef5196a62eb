"""Where image data sets are, and whether they may be read."""

import os


def cache_folder() -> str:
    """Of archives: the environment variable DFC_JAX_DATA, else `dfc_jax` in XDG_CACHE_HOME or `~/.cache`."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.expanduser(os.environ.get("DFC_JAX_DATA") or os.path.join(caches, "dfc_jax"))


def tfds_folder() -> str:
    """Of TensorFlow Datasets: the environment variable TFDS_DATA_DIR, else `~/tensorflow_datasets`."""
    return os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets"))


def check_readable(root: str, folder: str) -> None:
    """Raise `PermissionError` unless `folder`, on the way from `root`, and all in it may be read."""
    forbidden = _forbidden(root, folder)
    if forbidden is not None:
        remedy = "ask its owner for the permission to read it, or use another folder"
        raise PermissionError(f"{forbidden!r} may not be read by this user: {remedy}.")


def _forbidden(root: str, folder: str) -> str | None:
    for part in (root, folder):
        if os.path.isdir(part) and not os.access(part, os.R_OK | os.X_OK):
            return part
    for within, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(within, name)
            if not os.access(path, os.R_OK | (os.X_OK if name in folders else 0)):
                return path
    return None
