"""A package index of small wheels, for tests: stands in for pip."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.sources import cache


@dataclass
class Index:
    """Wheels by requirement; ``calls`` are the requirements that pip was asked for."""

    folder: Path
    calls: list[str] = field(default_factory=list)

    def add(self, requirement: str, files: dict[str, bytes]) -> str:
        """Make (or replace) a wheel and return its sha256."""
        name, version = requirement.split("==")
        path = self.folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in files.items():
                archive.writestr(member, content)
        return cache.read_sha256(path)

    def pip(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        requirement, target = arguments[-1], Path(arguments[arguments.index("--dest") + 1])
        self.calls.append(requirement)
        name, version = requirement.split("==")
        wheel = self.folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        if not wheel.exists():
            said = f"WARNING: first line\nERROR: No matching distribution found for {requirement}\n"
            return subprocess.CompletedProcess(arguments, 1, "", said)
        shutil.copy(wheel, target)
        return subprocess.CompletedProcess(arguments, 0, "", "")
