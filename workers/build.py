"""Builds the kernels with CMake and Ninja, once per content, into a cache that any number of processes may share.

The key is a hash of the sources, the flags, the compiler, the architecture and the C library. A build runs on a private
copy of the sources in a temporary folder of the cache; its result appears under the key by one rename. A lock per key
spares the machine from compiling the same thing many times at once; where the file system has no locks, the rename
alone keeps it right.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workers.errors import BuildError

Backend = Literal["cpu", "cuda"]

_FLAG_VARIABLES = (
    *("CXXFLAGS", "CUDAFLAGS", "CUDAHOSTCXX", "LDFLAGS"),
    *("NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS", "NVCC_CCBIN"),
)
_NOT_FOR_CMAKE = set('";\\\n')
_LAST_LINES = 30
_ABANDONED_AFTER_SECONDS = 24 * 3600
_CUDA_COMPILE_BYTES = 4 << 30  # memory that one CUTLASS instantiation takes


@dataclass(frozen=True)
class BuiltLibrary:
    """A kernel library in the cache. ``key`` names its content, as the module's docstring has it."""

    path: Path
    key: str
    build_info: dict[str, Any]
    log: Path


@dataclass(frozen=True)
class _Recipe:
    """All that decides what comes out: the content that the key is a hash of."""

    backend: Backend
    sources: dict[str, bytes]
    arguments: tuple[str, ...]
    compilers: dict[str, str]

    @property
    def key(self) -> str:
        digest = hashlib.sha256()
        flags = {name: os.environ.get(name, "") for name in _FLAG_VARIABLES}
        system = [platform.machine(), *platform.libc_ver()]
        digest.update(json.dumps([self.backend, self.arguments, self.compilers, flags, system]).encode())
        for name, content in sorted(self.sources.items()):
            digest.update(f"\0{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()[:20]

    @property
    def library_name(self) -> str:
        return f"libfarm_{self.backend}.so"


def build(backend: Backend, *, jobs: int | None = None, source: Path | None = None) -> BuiltLibrary:
    """The library of ``backend``, compiled if the cache does not have it yet.

    ``jobs`` bounds parallel compiler runs (default: what cores and memory allow); ``source`` is a kernels folder other
    than the one shipped. Raises BuildError.
    """
    recipe = _recipe(backend, source or kernels_folder())
    cache = cache_folder()
    if set(str(cache)) & _NOT_FOR_CMAKE:
        raise BuildError(
            f"the kernel cache is {str(cache)!r}; CMake takes no folder with a quote, semicolon, backslash or newline "
            "in its name: set FARM_CACHE_DIR to another"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        final = cache / f"{backend}-{recipe.key}"
        with _lock(cache / f"{final.name}.lock"):
            return _read(final, recipe) or _compile(recipe, cache, final, jobs or _default_jobs(backend))
    except OSError as error:
        raise BuildError(
            f"the kernel cache {cache} can't be used: {error}; set FARM_CACHE_DIR to a folder that can be written"
        ) from error


def cache_folder() -> Path:
    """Where built kernels are kept: ``$FARM_CACHE_DIR/kernels``, else the user's cache folder."""
    if chosen := os.environ.get("FARM_CACHE_DIR"):
        return Path(chosen).expanduser().absolute() / "kernels"
    import platformdirs

    return platformdirs.user_cache_path("determinism-farm") / "kernels"


def kernels_folder() -> Path:
    """The kernel sources: inside an installed wheel, or beside this package in the repository. Raises BuildError."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_kernels", package.parent / "kernels"):
        if (folder / "CMakeLists.txt").is_file():
            return folder
    raise BuildError(f"no kernel sources in {package / '_kernels'} or {package.parent / 'kernels'}; reinstall the farm")


def _recipe(backend: Backend, source: Path) -> _Recipe:
    other = "src/cuda" if backend == "cpu" else "src/cpu"
    files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    sources = {name: path.read_bytes() for name, path in files.items() if not name.startswith(other)}
    compiler = _compiler()
    arguments = [f"-DFARM_BACKEND={backend}", f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_BUILD_TYPE=Release"]
    compilers = {"c++": _version(compiler)}
    if backend == "cuda":
        nvcc = find_nvcc()
        if nvcc is None:
            raise BuildError("no CUDA compiler: nvcc is not on PATH; install the CUDA toolkit or set CUDACXX")
        arguments.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
        compilers["nvcc"] = _version(nvcc)
    return _Recipe(backend, sources, tuple(arguments), compilers)


def _tool(name: str) -> str:
    """An executable from PyPI: beside this Python where it is in a virtual environment, or on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise BuildError(f"{name} is neither beside {sys.executable} nor on PATH; install it: pip install {name}")
    return found


def _compiler() -> str:
    asked = os.environ.get("CXX")
    for name in [asked] if asked else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    if asked:
        raise BuildError(f"CXX is {asked!r}, which is not an executable; unset it or name a C++17 compiler")
    raise BuildError("no C++ compiler (c++, g++, clang++) on PATH; install one (apt-get install g++) or set CXX")


def find_nvcc() -> str | None:
    """The CUDA compiler: ``$CUDACXX``, or nvcc on PATH or under ``$CUDA_HOME``; None where there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    under_home = str(Path(home) / "bin" / "nvcc") if home else "nvcc"
    return shutil.which(os.environ.get("CUDACXX") or "nvcc") or shutil.which(under_home)


def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{compiler} --version failed with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def _default_jobs(backend: Backend) -> int:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if backend == "cpu":
        return cores
    return max(1, min(cores, int(psutil.virtual_memory().available // _CUDA_COMPILE_BYTES)))


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: several builds race, the rename decides
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(final: Path, recipe: _Recipe) -> BuiltLibrary | None:
    library = final / recipe.library_name
    try:
        info = json.loads((final / "build.json").read_text())
    except FileNotFoundError:
        return None
    return BuiltLibrary(library, recipe.key, info, final / "build.log")


def _compile(recipe: _Recipe, cache: Path, final: Path, jobs: int) -> BuiltLibrary:
    _remove_abandoned(cache)
    work = Path(tempfile.mkdtemp(prefix=f"tmp-{recipe.backend}-", dir=cache))
    for name, content in recipe.sources.items():
        (work / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "source" / name).write_bytes(content)
    result = work / "result"
    result.mkdir()
    started = time.monotonic()
    cmake, log = _tool("cmake"), result / "build.log"
    configure = [cmake, "-S", str(work / "source"), "-B", str(work / "build"), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}", *recipe.arguments]
    _run(configure, log, work)
    _run([cmake, "--build", str(work / "build"), "--parallel", str(jobs)], log, work)

    shutil.copy2(work / "build" / recipe.library_name, result / recipe.library_name)
    info = {
        "backend": recipe.backend,
        "key": recipe.key,
        "compilers": recipe.compilers,
        "arguments": list(recipe.arguments),
        "seconds": round(time.monotonic() - started, 2),
    }
    (result / "build.json").write_text(json.dumps(info, indent=2) + "\n")
    _publish(result, final)
    shutil.rmtree(work, ignore_errors=True)
    built = _read(final, recipe)
    if built is None:
        raise BuildError(f"{final} was removed while it was being built; run the same again")
    return built


def _run(command: list[str], log: Path, work: Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    with log.open("a") as file:
        file.write(f"$ {shlex.join(command)}\n{done.stdout}")
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-_LAST_LINES:])
        raise BuildError(
            f"building the kernels failed with status {done.returncode}; the compiler's last lines:\n{last}\n"
            f"the half-built folder is kept as {work}; to repeat the step that failed:\n  {shlex.join(command)}"
        )


def _publish(result: Path, final: Path) -> None:
    """One rename; where another process was first, its equal result stays."""
    try:
        result.rename(final)
    except OSError:
        if not (final / "build.json").is_file():
            raise


def _remove_abandoned(cache: Path) -> None:
    """Folders of builds that failed or were killed a day ago or more."""
    for folder in cache.glob("tmp-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
