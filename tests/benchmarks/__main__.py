"""``python3 run.py bench [SCENARIO …]``: brings up its own Postgres, measures, prints a table.

Peers are installed into an environment of their own at the first run with peers; ``--peers none`` does without.
Exit code 0 when everything was measured, whether or not the targets were reached; 1 when something failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tests.benchmarks import machine, peers, record, report
from tests.benchmarks.harness import Bench
from tests.benchmarks.processes import ROOT, environment
from tests.benchmarks.scenarios import NAMES, about, find
from tests.benchmarks.server import OPTIONS

HERE = Path(__file__).parent
FILE = "results.json"


def main(arguments: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.write_results and options.quick:
        parser.error("RESULTS.md holds a full run: leave out --quick or --write-results.")
    names = options.scenario or list(NAMES)
    # A SIGTERM ends us as Ctrl-C does: through every `finally`, and so without leaving a process or a database.
    signal.signal(signal.SIGTERM, _interrupt)
    # Processes that may not keep what they compiled hold the compiler's memory: 3.5 MB of a worker's.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folder = options.out or HERE / "results"
    found = record.load((options.json or folder / FILE) if options.add else None)
    if options.write_results and any(run["quick"] for run in found["runs"]):
        parser.error("RESULTS.md holds full runs: what --add would start from has a --quick one.")
    chosen, left_out = _peers(options)
    if dropped := record.peers_without(found, names, [peer.name for peer in chosen]):
        parser.error(
            f"--add has rows of {', '.join(dropped)} for these scenarios, which this run would drop: measure them, too."
        )
    bench = Bench(options.env, chosen, options.rounds, options.quick)
    this: dict[str, Any] = {
        "command": _command(options),
        "quick": bench.quick,
        "machine": machine.describe(),
        "left_out": left_out,
    }
    found["runs"].append(this)
    number = len(found["runs"]) - 1
    interrupted = False
    try:
        this["postgres"] = {
            "version": bench.server.version(),
            "options": dict(OPTIONS),
            "file_system": machine.file_system(bench.server.folder),
        }
        for name in names:
            bench.say(f"== {name}")
            began, failed = time.monotonic(), len(bench.failures)
            try:
                result = find(name)(bench).as_json()
            except Exception as error:  # the others are still worth measuring
                bench.failures.append(f"{name}: {error!r}")
                bench.say(f"{name} FAILED: {error!r}")
                result = {"rows": [], "charts": [], "detail": {}, "error": repr(error)}
            result = {"run": number, "seconds": round(time.monotonic() - began, 1), **result}
            result["failures"] = bench.failures[failed:]
            found["scenarios"][name] = result
            report.show(name, result)
            _write(options.json, found, bench)
    except KeyboardInterrupt:
        interrupted = True
        print("Interrupted; what was measured is kept.", file=sys.stderr)
    finally:
        bench.close()
    if interrupted:
        return 130
    record.tidy(found)
    _write(options.json, found, bench)
    print(record.took(found))
    if options.out is not None or options.write_results:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / FILE, found, bench)
        _plots(folder, options.env)
    if options.write_results:
        folder = folder.resolve()
        beside = folder if folder.parent == HERE else None
        (HERE / "RESULTS.md").write_text(report.markdown(found, beside), encoding="utf-8")
    for failure in bench.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if bench.failures else 0


def _parser() -> argparse.ArgumentParser:
    words = {name: about(name).splitlines()[0] for name in NAMES}
    listing = "\n".join(f"  {name:<10} {line}" for name, line in words.items())
    parser = argparse.ArgumentParser(
        prog="run.py bench", description=f"Measure pgfleet.\n\nscenarios:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("scenario", nargs="*", choices=[*NAMES, []], metavar="SCENARIO", help="default: all")
    parser.add_argument("--peers", help=f"comma-separated, or none; default: all ({', '.join(peers.PEERS)})")
    parser.add_argument("--rounds", type=int, help="how often all take turns (default: 1 to 5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small, without peers unless named")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument(
        "--add", action="store_true", help="keep what FILE (or DIR/results.json) holds of other scenarios"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="draw a PNG of each scenario into DIR; results.json")
    parser.add_argument(
        "--write-results", action="store_true", help="write tests/benchmarks/RESULTS.md, and its PNGs to results/"
    )
    parser.add_argument(
        "--env", type=Path, default=ROOT / ".pgfleet" / "bench", metavar="DIR",
        help="where the peers and matplotlib are installed (default: .pgfleet/bench)",
    )  # fmt: skip
    return parser


def _command(options: argparse.Namespace) -> str:
    """The command line but for where its output went, which is nobody's business elsewhere."""
    words = ["python3 run.py bench", *options.scenario]
    words += [f"--peers {options.peers}"] if options.peers else []
    words += [f"--rounds {options.rounds}"] if options.rounds else []
    return " ".join([*words, *(["--quick"] if options.quick else [])])


def _peers(options: argparse.Namespace) -> tuple[list[peers.Peer], list[str]]:
    """The peers to measure, installed, and why others are left out."""
    if options.peers == "none" or (options.peers is None and options.quick):
        return [], []
    names = list(peers.PEERS) if options.peers is None else options.peers.split(",")
    unknown = [name for name in names if name not in peers.PEERS]
    if unknown:
        raise SystemExit(f"No peer {', '.join(unknown)}; there are: {', '.join(peers.PEERS)}.")
    wanted = [peers.PEERS[name] for name in names]
    left_out = [reason for peer in wanted if (reason := peer.unavailable())]
    chosen = [peer for peer in wanted if peer.available()]
    if chosen:
        peers.install(options.env)
    return chosen, left_out


def _write(path: Path | None, found: dict[str, Any], bench: Bench) -> None:
    for peer in bench.peers:
        before = found["peers"].get(peer.name, {}).get("settings")
        settings = bench.peer_settings.get(peer.name, before)
        found["peers"][peer.name] = {"description": peer.description, "settings": settings}
    if path is not None:
        record.save(path, found)


def _plots(folder: Path, env: Path) -> None:
    """Draw by matplotlib, which lives in an environment of its own: the project doesn't need it."""
    python = env / "plot" / "bin" / "python"
    pins = HERE / "plot-requirements.txt"
    stamp = env / "plot" / ".stamp"
    if not stamp.exists() or stamp.read_text() != pins.read_text():
        shutil.rmtree(env / "plot", ignore_errors=True)
        if uv := shutil.which("uv"):
            make = [uv, "venv", "--quiet", "--python", sys.executable, str(env / "plot")]
            fill = [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(pins)]
        else:
            make = [sys.executable, "-m", "venv", str(env / "plot")]
            fill = [str(python), "-m", "pip", "install", "--quiet", "-r", str(pins)]
        for line in (make, fill):
            subprocess.run(line, check=True, env={k: v for k, v in environment().items() if k != "VIRTUAL_ENV"})
        stamp.write_text(pins.read_text())
    # -P: this folder has an http.py, which must not stand in for the standard library's.
    subprocess.run([python, "-P", HERE / "plot.py", folder / FILE, folder], check=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
