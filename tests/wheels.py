"""Wheels of other packages that tests compare with, downloaded when they are asked for."""

import subprocess
import sys
import zipfile

import pytest


def unpacked(requirement, folder):
    """The files of a package's wheel, in a folder; the test is skipped where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", requirement, "-d", folder]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.skip(f"{requirement} cannot be downloaded here: {done.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder)
    return folder
