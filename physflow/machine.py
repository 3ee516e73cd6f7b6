"""What numbers were made on: the machine and the versions, to stand beside them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from physflow import __version__

__all__ = ["commit", "machine", "versions"]


def versions() -> dict[str, str]:
    """The versions of physflow, python and the packages on which numbers depend."""
    packages = ("torch", "numpy", "scipy", "xarray", "h5netcdf", "findiff", "torchdiffeq")
    return {
        "physflow": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def commit() -> str:
    """The commit of physflow's source, with a plus if files have changed since; empty without a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        found, changed = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (
                ["rev-parse", "--short=10", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "--", "physflow", "benchmarks/*.py"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{found}+" if changed else found


def machine() -> dict[str, str]:
    """System, processor, cores and accelerator."""
    machine = {"system": platform.system(), "processor": _processor(), "cores": str(os.cpu_count())}
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return machine


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
