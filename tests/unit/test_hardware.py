"""What the machine has, from files as Linux lays them out."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tunesmith import hardware
from tunesmith.hardware import Accelerator, choose_dtype

GB = 2**30


def root(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


MEMINFO = {"proc/meminfo": f"MemTotal:  {16 * GB // 1024} kB\nMemAvailable:  {12 * GB // 1024} kB\n"}


def test_memory_of_a_machine_without_a_container(tmp_path: Path) -> None:
    assert hardware.memory(root(tmp_path, MEMINFO)) == (16 * GB, 12 * GB)


@pytest.mark.parametrize(
    "files",
    [
        {  # version 2, the limit on the group above
            "proc/self/cgroup": "0::/pod/job\n",
            "sys/fs/cgroup/pod/job/memory.max": "max\n",
            "sys/fs/cgroup/pod/memory.max": f"{4 * GB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{3 * GB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GB}\n",
        },
        {  # version 2 inside a container: the path is the host's
            "proc/self/cgroup": "0::/not/visible/here\n",
            "sys/fs/cgroup/memory.max": f"{4 * GB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GB}\n",
            "sys/fs/cgroup/memory.stat": f"inactive_file {GB}\n",
        },
        {  # version 1
            "proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * GB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{3 * GB}\n",
            "sys/fs/cgroup/memory/job/memory.stat": f"total_inactive_file {GB}\n",
        },
    ],
)
def test_memory_of_a_container(tmp_path: Path, files: dict[str, str]) -> None:
    assert hardware.memory(root(tmp_path, MEMINFO | files)) == (4 * GB, 2 * GB)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:cpu:/job\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_cores_are_those_of_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(8)))
    assert hardware.usable_cores(root(tmp_path, files)) == cores


def test_processor(tmp_path: Path) -> None:
    block = "processor : {}\nmodel name\t: AMD EPYC 9xx4\nphysical id\t: {}\ncore id\t\t: {}\n"
    text = "\n".join(block.format(i, i // 4, i % 2) for i in range(8))
    assert hardware.cpu_name(root(tmp_path, {"proc/cpuinfo": text})) == "AMD EPYC 9xx4"
    assert hardware.physical_cores(tmp_path) == 4  # two sockets of two cores of two threads


def test_dtype_follows_the_weakest_gpu() -> None:
    new, old = Accelerator("H200", 1, True), Accelerator("T4", 1, False)
    assert choose_dtype(())[0] == "float32"
    assert choose_dtype((new,)) == ("bfloat16", "H200 computes in bfloat16, at half the memory of float32")
    assert choose_dtype((new, old)) == ("float32", "T4 does not compute in bfloat16")


def test_free_disk_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    assert hardware.free_disk_bytes(tmp_path / "a" / "b") > 0


def test_peak_memory_sees_what_was_freed_and_can_begin_anew() -> None:
    size = 200 * 2**20
    before = hardware.current_memory_bytes()
    block = bytearray(size)
    del block
    assert hardware.peak_memory_bytes() >= before + 0.9 * size
    if hardware.reset_peak_memory():
        assert hardware.peak_memory_bytes() < before + 0.5 * size


def test_detect_and_measure_on_this_machine() -> None:
    found = hardware.detect()
    assert found.usable_cores >= 1
    assert 0 < found.available_bytes <= found.memory_bytes
    assert (found.dtype == "bfloat16") <= bool(found.accelerators)
    assert 1e8 < hardware.measure_matmul("float32", seconds=0.1) < 1e15


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what was freed, and gives it back")
def test_freed_memory_is_given_back() -> None:
    held = [bytes(10_000) for _ in range(20_000)]
    last = bytes(10_000)  # above them, so that the heap cannot shrink by itself
    before = hardware.current_memory_bytes()
    del held
    hardware.return_freed_memory()
    assert hardware.current_memory_bytes() < before - 150e6
    assert last
