"""Feast's own environment, built once from `feast-requirements.txt`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("feast-requirements.txt")


class NotBuilt(RuntimeError):
    """Feast cannot be measured here; the message says why."""


def python(folder: Path) -> str:
    """The interpreter of an environment that has Feast, made below `folder` when it is not there.

    Raises:
        NotBuilt: the registry cannot be reached, or a package does not install.
    """
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    place = folder.resolve() / "feast-environment"
    interpreter, made = str(place / "bin" / "python"), place / f"made-from-{wanted}"
    if not made.exists():
        shutil.rmtree(place, ignore_errors=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
        for command in (
            [sys.executable, "-m", "venv", str(place)],
            [interpreter, *install, "--requirement", str(REQUIREMENTS)],
        ):
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                said = [line for line in (ended.stderr + ended.stdout).splitlines() if "ERROR" in line]
                raise NotBuilt(f"{' '.join(command[:4])} ...: {(said or [f'exit {ended.returncode}'])[-1]}")
        made.touch()
    return interpreter
