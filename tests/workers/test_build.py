from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers import build as build_module
from workers.build import BuiltLibrary, build, kernels_folder
from workers.errors import BuildError

CMAKE = """
cmake_minimum_required(VERSION 3.24)
project(tiny LANGUAGES CXX)
add_library(farm_cpu SHARED tiny.cpp)
"""


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FARM_CACHE_DIR", str(tmp_path / "cache's $HOME folder"))
    return tmp_path / "cache's $HOME folder" / "kernels"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Kernels that compile in a moment."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(CMAKE)
    (folder / "tiny.cpp").write_text('extern "C" int answer() { return 42; }\n')
    return folder


def test_a_library_is_built_once_for_its_content(cache: Path, source: Path) -> None:
    first = build("cpu", source=source)
    assert first.path.parent.parent == cache and first.path.name == "libfarm_cpu.so"
    assert first.key in first.path.parent.name and first.build_info["key"] == first.key
    assert "tiny.cpp" in first.log.read_text()
    stamp = first.path.stat().st_mtime_ns
    assert build("cpu", source=source) == first
    assert first.path.stat().st_mtime_ns == stamp
    assert leftovers(cache) == []


def test_sources_and_flags_change_the_key(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {build("cpu", source=source).key}
    (source / "tiny.cpp").write_text('extern "C" int answer() { return 43; }\n')
    keys.add(build("cpu", source=source).key)
    (source / "unused.h").write_text("")
    keys.add(build("cpu", source=source).key)
    monkeypatch.setenv("CXXFLAGS", "-O1")
    keys.add(build("cpu", source=source).key)
    assert len(keys) == 4


def test_machines_of_two_architectures_share_a_cache(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = build("cpu", source=source).key
    monkeypatch.setattr("platform.machine", lambda: "riscv128")
    assert build("cpu", source=source).key != here


def test_the_other_backends_sources_do_not_change_the_key(cache: Path, source: Path) -> None:
    key = build("cpu", source=source).key
    (source / "src" / "cuda").mkdir(parents=True)
    (source / "src" / "cuda" / "kernel.cu").write_text("this is not for the CPU")
    assert build("cpu", source=source).key == key


def test_a_failed_build_gives_the_compilers_words_and_a_command_that_repeats_it(cache: Path, source: Path) -> None:
    (source / "tiny.cpp").write_text("int answer() { return fourty_two; }\n")
    with pytest.raises(BuildError) as caught:
        build("cpu", source=source)
    message = str(caught.value)
    assert "fourty_two" in message and "error:" in message
    kept = re.search(r"half-built folder is kept as (.*);", message)
    assert kept and Path(kept[1], "build").is_dir()
    command = message.splitlines()[-1].strip()
    again = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert again.returncode != 0 and "fourty_two" in again.stdout
    assert not list(cache.glob("cpu-*/build.json"))

    (source / "tiny.cpp").write_text("int answer() { return 42; }\n")
    build("cpu", source=source)


def test_a_failed_configuration_is_told_too(cache: Path, source: Path) -> None:
    (source / "CMakeLists.txt").write_text('message(FATAL_ERROR "no such luck")')
    with pytest.raises(BuildError, match="no such luck"):
        build("cpu", source=source)


RACER = """
import sys
from pathlib import Path
import workers.build
if sys.argv[2] == "unlocked":
    def no_locks(*_): raise OSError("no locks here")
    workers.build.fcntl.flock = no_locks
print(workers.build.build("cpu", source=Path(sys.argv[1]), jobs=1).path)
"""


@pytest.mark.parametrize("locks", ["locked", "unlocked"])
def test_processes_may_race_for_one_build(cache: Path, source: Path, locks: str) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(source), locks], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    paths = {racer.communicate(timeout=120)[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 4
    assert paths == {str(build("cpu", source=source).path)}
    assert leftovers(cache) == []


def test_the_loser_of_a_race_takes_the_winners_result(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = build_module._publish
    winner: list[BuiltLibrary] = []

    def lose(result: Path, final: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(build_module, "_publish", publish)
            patch.setattr("fcntl.flock", lambda *_: None)
            winner.append(build("cpu", source=source))
        publish(result, final)

    monkeypatch.setattr(build_module, "_publish", lose)
    assert [build("cpu", source=source)] == winner
    assert leftovers(cache) == []


def test_folders_of_abandoned_builds_are_removed_after_a_day(cache: Path, source: Path) -> None:
    old, new = cache / "tmp-cpu-old", cache / "tmp-cpu-new"
    for folder in (old, new):
        (folder / "build").mkdir(parents=True)
    os.utime(old, (time.time() - 90000, time.time() - 90000))
    build("cpu", source=source)
    assert leftovers(cache) == [new]


def test_a_cache_that_can_not_be_written_is_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FARM_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="set FARM_CACHE_DIR to a folder that can be written"):
        build("cpu", source=source)


def test_a_cache_that_cmake_can_not_take_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_CACHE_DIR", "/nowhere/a;b")
    with pytest.raises(BuildError, match="CMake takes no folder with a quote, semicolon"):
        build("cpu", source=source)


def test_a_missing_compiler_is_told(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="CXX is 'no-such-compiler'"):
        build("cpu", source=source)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        build("cpu", source=source)


def test_a_missing_cuda_compiler_is_told(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build_module, "find_nvcc", lambda: None)
    with pytest.raises(BuildError, match="nvcc is not on PATH"):
        build("cuda", source=source)


def test_the_sources_are_found() -> None:
    assert (kernels_folder() / "include" / "farm_kernels.h").is_file()


def leftovers(cache: Path) -> list[Path]:
    return sorted(cache.glob("tmp-*"))
