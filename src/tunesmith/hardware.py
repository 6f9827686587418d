"""What this machine can do: cores, memory, accelerators, the dtype to compute in, and how fast it multiplies.

Limits of a container (cgroups) count, not only the machine's own figures.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU. ``bf16``: whether it computes in bfloat16 itself."""

    name: str
    memory_bytes: int
    bf16: bool


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine as this process may use it.

    Attributes:
        physical_cores: Cores of the machine without hyper-threads; the number of logical ones if not known.
        usable_cores: Logical cores this process may run on: affinity and the container's quota, rounded down.
        memory_bytes: The machine's memory, or the container's limit.
        available_bytes: What can still be taken without swapping.
        dtype: What models are trained in here; ``dtype_reason`` says why.
    """

    cpu_name: str
    physical_cores: int
    usable_cores: int
    memory_bytes: int
    available_bytes: int
    accelerators: tuple[Accelerator, ...]
    dtype: Dtype
    dtype_reason: str


def detect() -> Hardware:
    """Look at the machine. Imports torch, to ask it for accelerators."""
    accelerators = _accelerators()
    dtype, reason = choose_dtype(accelerators)
    total, available = memory()
    return Hardware(cpu_name(), physical_cores(), usable_cores(), total, available, accelerators, dtype, reason)


def choose_dtype(accelerators: tuple[Accelerator, ...]) -> tuple[Dtype, str]:
    """bfloat16 where every GPU computes in it, float32 elsewhere; and the reason."""
    if not accelerators:
        return "float32", "no GPU; on a CPU float32 is exact, and bfloat16 can be up to 400 times slower"
    without = [a.name for a in accelerators if not a.bf16]
    if without:
        return "float32", f"{without[0]} does not compute in bfloat16"
    return "bfloat16", f"{accelerators[0].name} computes in bfloat16, at half the memory of float32"


def _accelerators() -> tuple[Accelerator, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    return tuple(
        Accelerator(p.name, p.total_memory, p.major >= 8)  # bf16 units came with compute capability 8.0
        for p in (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    )


# ── processor and memory ─────────────────────────────────────────────────────────────────────────────────
def cpu_name(root: Path = Path("/")) -> str:
    """The processor's name as Linux gives it, else the architecture."""
    match = re.search(r"^model name\s*:\s*(.+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def physical_cores(root: Path = Path("/")) -> int:
    """Cores without hyper-threads, over all sockets; logical cores where that is not known."""
    blocks = _read(root / "proc/cpuinfo").split("\n\n")
    found = set()
    for block in blocks:
        fields = dict(re.findall(r"^(physical id|core id)\s*:\s*(\d+)$", block, re.MULTILINE))
        if len(fields) == 2:
            found.add((fields["physical id"], fields["core id"]))
    return len(found) or os.cpu_count() or 1


def usable_cores(root: Path = Path("/")) -> int:
    """Logical cores this process may use: its affinity and its container's quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _cgroups(root, "cpu"):
        quota, period = [*_read(group / "cpu.max").split(), "", ""][:2]
        if not quota:
            quota, period = (
                _read(group / "cpu.cfs_quota_us").strip(),
                _read(group / "cpu.cfs_period_us").strip(),
            )
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def memory(root: Path = Path("/")) -> tuple[int, int]:
    """Bytes in all and bytes available, of the machine or of the container where that has less."""
    fields: dict[str, str] = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE))
    if "MemTotal" not in fields:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    total = int(fields["MemTotal"]) * 1024
    available = int(fields["MemAvailable"]) * 1024 if "MemAvailable" in fields else total
    for group in _cgroups(root, "memory"):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if limit is not None and limit < total:
            used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
            # File pages that were not used lately are given back when memory is asked for.
            total, available = limit, min(available, limit - used + (int(cached[1]) if cached else 0))
    return total, max(0, available)


def _cgroups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group and those above it, version 2 or 1."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        here = top / path.lstrip("/")
        # Inside a container the path may be the host's and not be there; the top is then the container's own.
        found += [here, *(parent for parent in here.parents if parent.is_relative_to(top))]
    return [folder for folder in found if folder.is_dir()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def free_disk_bytes(path: Path) -> int:
    """Bytes a user may still write where a path is, or will be once it is made."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


# ── memory of this process ───────────────────────────────────────────────────────────────────────────────
def current_memory_bytes() -> int:
    """Memory this process holds now (resident set), in bytes."""
    return _status("VmRSS") or peak_memory_bytes()


def peak_memory_bytes() -> int:
    """The most memory this process held since it began, or since ``reset_peak_memory``, in bytes."""
    import resource

    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def reset_peak_memory() -> bool:
    """Let the peak begin anew at what is held now; False where the system cannot (only Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def trim_heap() -> None:
    """Give what lies free inside this process back to the system, where the C library can (glibc)."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> int | None:
    match = re.search(rf"^{field}:\s+(\d+) kB$", _read(Path("/proc/self/status")), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


# ── speed ────────────────────────────────────────────────────────────────────────────────────────────────
def measure_sgemm() -> float:
    """How fast this CPU multiplies fp32 matrices with torch's threads, in FLOP/s; takes a second."""
    return measure_matmul("float32")


def measure_matmul(dtype: Dtype, device: str = "cpu", seconds: float = 1.0) -> float:
    """The best rate of a square matrix product, in FLOP/s, over sizes from 256 up to 4096.

    Args:
        dtype: What to multiply in.
        device: A torch device.
        seconds: Time it may take, roughly; sizes that would take longer are not tried.

    Returns:
        2·n³ divided by the shortest time of a product, for the n where that is largest.
    """
    import torch

    best, spent = 0.0, 0.0
    share = seconds / 5
    for n in (256, 512, 1024, 2048, 4096):
        if best and 3 * 2 * n**3 / best > seconds - spent:
            break
        a = torch.ones(n, n, dtype=getattr(torch, dtype), device=device)
        shortest, used = float("inf"), 0.0
        while used < share or shortest == float("inf"):
            start = time.perf_counter()
            torch.mm(a, a)
            if device != "cpu":
                torch.cuda.synchronize(device)
            taken = time.perf_counter() - start
            shortest, used = min(shortest, taken), used + taken
        best, spent = max(best, 2 * n**3 / shortest), spent + used
    return best
