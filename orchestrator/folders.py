"""Where the farm keeps things between runs, and what a failing disk is called in plain words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from specs.errors import InfrastructureError


def data_folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("farm", appauthor=False)


def runs_folder() -> Path:
    """`FARM_RUNS_DIR`, or `runs` in the user's data folder."""
    given = os.environ.get("FARM_RUNS_DIR")
    return Path(given).absolute() if given else data_folder() / "runs"


def disk_failure(error: OSError, path: Path, setting: str) -> InfrastructureError:
    """What to tell the user when `path` could not be written. `setting` is the variable that moves it elsewhere."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            reason, remedy = "the disk is full", "free some space"
        case errno.EROFS | errno.EACCES | errno.EPERM:
            reason, remedy = "no permission to write there", "make it writable"
        case errno.ENOTDIR | errno.EEXIST:
            reason, remedy = "a file stands where a folder has to be", "move it away"
        case _:
            reason, remedy = error.strerror or str(error), "mend that"
    return InfrastructureError(f"can't write {path}: {reason}. Please {remedy}, or set {setting} to another place.")
