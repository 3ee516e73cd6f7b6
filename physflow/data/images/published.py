"""Whether a file is the published one: its size, its checksum, and where to get it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

__all__ = ["check_published", "missing"]


def check_published(path: Path, checksums: Mapping[str, str], where: str) -> None:
    """Warn if a file of a published name has another content.

    Arguments:
        path: The file.
        checksums: The MD5 sums of published files with this name, and the names of their sets.
        where: Where to get them.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if checksums and found not in checksums:
        warnings.warn(
            f"{path} is not the published file of {' or '.join(dict.fromkeys(checksums.values()))} (its MD5 sum is "
            f"{found}): packed again, damaged, or another set; get it from {where}",
            UserWarning,
            stacklevel=4,
        )


def missing(path: Path, expected: str, where: str) -> FileNotFoundError:
    """The error of a file that is not there."""
    folder = path if path.is_dir() else path.parent
    there = sorted(file.name for file in folder.iterdir())[:8] if folder.is_dir() else []
    found = f"{folder} holds {', '.join(there) or 'nothing'}" if folder.is_dir() else f"there is no folder {folder}"
    return FileNotFoundError(f"expected {expected}, but {found}; get the files from {where}")
