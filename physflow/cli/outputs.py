"""Where commands write."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ending", "free"]


def free(path: str | Path, overwrite: bool, option: str = "--out") -> Path:
    """An output, refused before any work starts if it could not be written after it.

    Arguments:
        path: The file or folder.
        overwrite: Whether an existing one is replaced.
        option: The option that names it.

    Returns:
        The path.

    Raises:
        FileExistsError: If it exists and must not be replaced.
        FileNotFoundError: If its folder does not exist.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give another {option}, or --overwrite to replace it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} of {option} does not exist; create it first")
    return path


def ending(path: str | Path, suffix: str, option: str) -> Path:
    """The path of an output, refused if it does not end as its format does.

    Arguments:
        path: The file.
        suffix: The ending, with its dot.
        option: The option that names it.

    Returns:
        The path.

    Raises:
        ValueError: If it ends otherwise.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"expected {option} to end in {suffix}, got {path.name!r}")
    return path
