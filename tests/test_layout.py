"""The shape of the repository: who may import whom, where tests stand, what no file may say."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "vpntest"
TESTS = REPOSITORY / "tests"

ORDER = tuple("plan tunnel probe judge report history run shell lab doctor schemas manual cli".split())
"""Each reads only what stands to its left."""
SHARED = ("errors", "failures")
"""Read by all; they read nothing of ours."""
NOT_OURS = {".git", ".carriers", ".fuzz", ".lint", ".venv", "__pycache__", "build", "dist"}


def _files() -> Iterator[Path]:
    """Every file of the repository, without what preparing and running it leaves there."""
    for folder, folders, names in os.walk(REPOSITORY):
        folders[:] = [name for name in folders if name not in NOT_OURS and not name.endswith(("_cache", ".egg-info"))]
        folders[:] = [name for name in folders if name != ".hypothesis"]
        yield from (Path(folder, name) for name in names)


FILES = sorted(_files())
MODULES = [path for path in FILES if path.suffix == ".py" and path.is_relative_to(PACKAGE)]


def _name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _part(path: Path) -> str:
    """`plan` for vpntest/plan/keys.py, `run` for vpntest/run.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """Full names of what a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno}: imports are written out in full here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _parts_read(path: Path) -> set[str]:
    return {name.split(".")[1] for name in _imports(path) if name.startswith("vpntest.")} - {"__version__"}


def _allowed(part: str) -> set[str]:
    """What a module of this part may read."""
    if part in SHARED or part == "__init__":
        return set()
    if part == "__main__":
        return {"cli"}
    return {*ORDER[: ORDER.index(part) + 1], *SHARED}


# One test for all files: hundreds of tests that each take no time take seconds.


def test_every_module_has_its_place() -> None:
    assert {_name(path) for path in MODULES if _part(path) not in {*ORDER, *SHARED, "__init__", "__main__"}} == set()


def test_imports_point_left() -> None:
    assert {_name(path): wrong for path in MODULES if (wrong := _parts_read(path) - _allowed(_part(path)))} == {}


def test_only_the_command_line_knows_the_lab() -> None:
    others = [path for path in MODULES if _part(path) not in ("lab", "doctor", "cli")]
    assert {_name(path) for path in others if "lab" in _parts_read(path)} == set()


def test_one_module_knows_httpx() -> None:
    """So that its continuation is one line away."""
    assert len([path for path in MODULES if any(name.split(".")[0] == "httpx" for name in _imports(path))]) <= 1


@pytest.mark.parametrize("part", ["plan", "judge", "report", "doctor", "cli"])
def test_heavy_libraries_are_not_loaded_by(part: str) -> None:
    """They cost more than all else together, and what only reads, judges, prints or shows help needs none of them."""
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in MODULES if _part(path) == part]
    assert names
    heavy = "{'pyroute2', 'httpx', 'cryptography', 'dns', 'python_wireguard'}"
    code = f"import sys, {', '.join(names)}; print(*sorted({heavy} & {{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.split() == []


def test_every_module_has_its_tests() -> None:
    modules = [path for path in MODULES if path.name not in ("__init__.py", "__main__.py")]
    tests = {path: (TESTS / path.relative_to(PACKAGE)).with_name(f"test_{path.name}") for path in modules}
    assert {_name(path) for path, test in tests.items() if not test.is_file()} == set()


# In pieces, because this file is read too.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"\bpypi" r"\.(org|io)\b",
            r"\bpython" r"hosted\.org\b",
            r"\b(proxy|sum)" r"\.golang\.org\b",
            r"(?<![\w.])/tmp" r"/scratch\b",
            r"(?<![\w.])/work" r"/(main|shared)\b",
        ]
    )
)


def test_every_file_speaks_of_the_project_alone() -> None:
    """No name of one machine, and of no registry."""
    texts = ((path, path.read_bytes().decode("utf-8", "replace")) for path in FILES)
    assert {_name(path): found[0] for path, text in texts if (found := FORBIDDEN.search(text))} == {}


def test_what_is_forbidden_is_found() -> None:
    assert FORBIDDEN.search("https://" + "pypi" + ".org/simple")
    assert FORBIDDEN.search("cd /work" + "/main && make")
    assert not FORBIDDEN.search("golang.org/x/net, PyPI, /home/work/main")


def test_toml_parses() -> None:
    ours = [path for path in FILES if path.suffix == ".toml" and not path.is_relative_to(TESTS / "corpus/plans")]
    assert ours
    for path in ours:
        try:
            assert tomllib.loads(path.read_text(encoding="utf-8")), _name(path)
        except tomllib.TOMLDecodeError as exc:
            pytest.fail(f"{_name(path)}: {exc}")


SCRIPTS = [path for path in FILES if path.read_bytes()[:2] == b"#!"]


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_scripts_are_executable_and_parse(path: Path) -> None:
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


def test_the_promised_scripts_are_there() -> None:
    assert {_name(path) for path in SCRIPTS} >= {"scripts/demo", "scripts/test", "scripts/prepare", ".ci/run"}
