"""The shape of the repository: who may import whom, where tests stand, what no file may say."""

from __future__ import annotations

import ast
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

ORDER = ("plan", "tunnel", "probe", "judge", "report", "history", "run", "lab", "cli")
"""Each reads only what stands to its left."""
SHARED = ("errors", "failures")
"""Read by all; they read nothing of ours."""
NOT_OURS = {".git", ".carriers", ".fuzz", ".venv", "__pycache__", "build", "dist"}


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


def _imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno}: imports are written out in full here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _parts_read(path: Path) -> set[str]:
    return {name.split(".")[1] for name in _imports(path) if name.startswith("vpntest.")} - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_left(path: Path) -> None:
    part = _part(path)
    if part in SHARED or part == "__init__":
        allowed: set[str] = set()
    elif part == "__main__":
        allowed = {"cli"}
    else:
        assert part in ORDER, f"{_name(path)} stands in no known place of the order"
        allowed = {*ORDER[: ORDER.index(part) + 1], *SHARED}
    assert _parts_read(path) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_only_the_command_line_knows_the_lab(path: Path) -> None:
    if _part(path) not in ("lab", "cli"):
        assert "lab" not in _parts_read(path)


def test_one_module_knows_httpx() -> None:
    """So that its continuation is one line away."""
    assert len([path for path in MODULES if any(name.split(".")[0] == "httpx" for name in _imports(path))]) <= 1


@pytest.mark.parametrize("part", ["plan", "judge", "report", "cli"])
def test_heavy_libraries_are_not_loaded_by(part: str) -> None:
    """They cost more than all else together, and what only reads, judges, prints or shows help needs none of them."""
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in MODULES if _part(path) == part]
    assert names
    heavy = "{'pyroute2', 'httpx', 'cryptography', 'dns', 'python_wireguard'}"
    code = f"import sys, {', '.join(names)}; print(*sorted({heavy} & {{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name not in ("__init__.py", "__main__.py")], ids=_name
)
def test_every_module_has_its_tests(path: Path) -> None:
    assert (TESTS / path.relative_to(PACKAGE)).with_name(f"test_{path.name}").is_file()


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


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_speaks_of_the_project_alone(path: Path) -> None:
    found = FORBIDDEN.search(path.read_bytes().decode("utf-8", "replace"))
    assert found is None, f"{found[0]!r} is a name of one machine or one registry"


def test_what_is_forbidden_is_found() -> None:
    assert FORBIDDEN.search("https://" + "pypi" + ".org/simple")
    assert FORBIDDEN.search("cd /work" + "/main && make")
    assert not FORBIDDEN.search("golang.org/x/net, PyPI, /home/work/main")


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".toml"], ids=_name)
def test_toml_parses(path: Path) -> None:
    assert tomllib.loads(path.read_text(encoding="utf-8"))


SCRIPTS = [path for path in FILES if path.read_bytes()[:2] == b"#!"]


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_scripts_are_executable_and_parse(path: Path) -> None:
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


def test_the_promised_scripts_are_there() -> None:
    assert {_name(path) for path in SCRIPTS} >= {"scripts/demo", "scripts/test", "scripts/prepare", ".ci/run"}
