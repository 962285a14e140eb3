"""What `scripts/fuzz` runs: each parser of the table in a process of its own, for a given time.

fuzzing.py [--seconds N] [PARSER…]         all of them, and what came out
fuzzing.py --one PARSER [libFuzzer's own]  one, in this process
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / ".fuzz"


def one(name: str, rest: list[str]) -> None:
    """Fuzzes a parser in this process, to libFuzzer's end."""
    sys.path[:0] = [str(KEPT / "library"), str(Path(__file__).parent)]
    import atheris

    with atheris.instrument_imports(include=["vpntest.plan"]):
        import parsers

    folder = KEPT / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(parsers.seeds()[name]):
        (folder / f"seed-{number}").write_bytes(seed)

    def test(data: bytes) -> None:
        parsers.hold(name, data)

    atheris.Setup([sys.argv[0], *rest, str(folder)], test)
    atheris.Fuzz()


def run(name: str, seconds: int) -> tuple[str, int, str]:
    """One parser in a child. Gives its name, exit status and a line about it."""
    found = KEPT / "found"
    found.mkdir(parents=True, exist_ok=True)
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", "-print_final_stats=1"]
    command = [sys.executable, __file__, "--one", name, f"-max_total_time={seconds}", *limits]
    command.append(f"-artifact_prefix={found}/{name}-")
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, check=False)
    (KEPT / f"{name}.log").write_text(done.stdout)
    units = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
    told = f"{units[1] if units else 'no'} inputs"
    if done.returncode:
        written = re.findall(r"Test unit written to (\S+)", done.stdout)
        told += f"; failed: {written[-1] if written else f'see {KEPT / name}.log'}"
    return name, done.returncode, told


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3:])
        return 0
    sys.path.insert(0, str(Path(__file__).parent))
    from parsers import PARSERS

    parser = argparse.ArgumentParser(prog="scripts/fuzz")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help=", ".join(PARSERS))
    arguments = parser.parse_args()
    if unknown := set(arguments.parsers) - PARSERS.keys():
        parser.error(f"no parser is called {', '.join(sorted(unknown))}; there are: {', '.join(PARSERS)}")
    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, status, told in pool.map(lambda name: run(name, arguments.seconds), arguments.parsers or PARSERS):
            sys.stdout.write(f"{name}: {told}\n")
            sys.stdout.flush()
            failed += status != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
