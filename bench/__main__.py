"""``make bench``: measures, and prints one table. Nothing here is part of the tests."""

import argparse
import tempfile
from pathlib import Path

from bench.host import ROOT, Host
from bench.hubs import MEMORY, OURS, compare
from bench.machine import describe


def main() -> None:
    """Measure all, and print the table as Markdown."""
    parser = argparse.ArgumentParser("python -m bench", description=main.__doc__)
    parser.add_argument("--waiting", type=int, default=10_000, help="how many approvals wait (default: 10,000)")
    parser.add_argument("--paused", type=int, default=3_000, help="how many are paused (default: 3,000)")
    asked = parser.parse_args()
    print(describe(), end="\n\n| What | Figure |\n| --- | --- |\n", flush=True)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
        _purchase_orders(Path(folder) / "orders")
        _sign_ups(Path(folder) / "sign-ups")
        _waiting(Path(folder) / "waiting", asked.waiting)
        _paused(Path(folder) / "paused", asked.paused)
        _killed(Path(folder) / "killed", 1000)
    _hubs()


def _row(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)


def _purchase_orders(folder: Path) -> None:
    host = Host(folder)
    host.start()
    try:
        trips = host.drive("round_trips", count=200)
        _row("purchase order over HTTP, one by one: start, wait, decide, see the result", _times(trips))
        load = host.drive("throughput", count=1000, at_once=32)
        _row("1,000 purchase orders, 32 at a time", f"{load['per_second']:.0f} a second")
        calls = host.drive("guarded_calls", count=200)
        _row("guarded call that works, over HTTP, one by one: start, see the result", _times(calls))
        resolved = host.drive("resolve", count=100)
        _row("100 calls that wait on one error, retried by one call", f"{resolved['seconds']:.1f} s")
    finally:
        host.stop()


def _sign_ups(folder: Path) -> None:
    host = Host(folder)
    host.start()
    try:
        times = host.drive("sign_ups", count=100)
        _row("sign-up over HTTP, one by one: submit, see that the mail is out", _times(times["mailed"]))
        _row("the same: verify, `done`", _times(times["done"]))
        at_once = host.drive("verify_at_once", count=5, at_once=50)
        _row("50 verifications of one sign-up at once, until all are answered", f"{at_once['p50_ms']:.0f} ms")
    finally:
        host.stop()


def _waiting(folder: Path, count: int) -> None:
    host = Host(folder)
    host.start()
    try:
        empty = host.memory()
        host.drive("fill", count=51, at_once=32)
        few = host.drive("pages", count=200)
        filled = host.drive("fill", count=count, at_once=32)
        # The instances settle into their waits, and the log of the database into its file.
        host.drive("round_trips", count=50)
        _row(f"{count:,} approvals made to wait, each with its timer", f"{filled['seconds']:.1f} s")
        _row(f"memory with {count:,} waiting (with none)", f"{host.memory():.0f} MB ({empty:.0f} MB)")
        _row(f"disk with {count:,} waiting", f"{host.disk():.0f} MB")
        some = host.drive("decide_some", instances=filled["instances"][:: max(1, count // 200)])
        _row(f"one decision among {count:,} waiting", _times(some))
        _row("a page of 50 among 51 open waits", _times(few))
        _row(f"a page of 50 among {count:,} open waits", _times(host.drive("pages", count=200)))
        host.kill()
        _row(f"ready again after kill -9 with {count:,} waiting", f"{host.start():.2f} s")
    finally:
        host.stop()


def _paused(folder: Path, count: int) -> None:
    host = Host(folder)
    host.start()
    try:
        instances = host.drive("fill", count=count, at_once=32)["instances"]
        paused = host.drive("pause_all", instances=instances, at_once=32)
        _row(f"{count:,} paused, 32 at a time", f"{count / paused['seconds']:.0f} a second")
        host.drive("round_trips", count=50)
        some = host.drive("pause_and_resume", instances=instances[:: max(1, count // 200)])
        _row(f"one of {count:,} paused is resumed", _times(some["resumed"]))
        _row("the same one is paused", _times(some["paused"]))
        _row(f"a page of 50 among {count:,} paused", _times(host.drive("paused_pages", count=200)))
        _row(f"memory and disk with {count:,} paused", f"{host.memory():.0f} MB, {host.disk():.0f} MB")
        host.kill()
        _row(f"ready again after kill -9 with {count:,} paused", f"{host.start():.2f} s")
    finally:
        host.stop()


def _killed(folder: Path, count: int) -> None:
    host = Host(folder)
    host.start()
    try:
        filled = host.drive("fill", count=count, at_once=32)
        host.kill()
        ready = host.start()
        done = host.drive("finish", instances=filled["instances"], at_once=32)
        _row(
            f"kill -9 with {count:,} waiting, start, decide all",
            f"{done['completed']:,} completed, {ready + done['seconds']:.1f} s from the restart to the last",
        )
    finally:
        host.stop()


def _hubs() -> None:
    found = compare()
    for kind in (OURS, MEMORY):
        _row(f"{kind} alone, over gRPC, one by one", _times(found[kind]))
        _row(f"{kind} alone, 32 at a time", f"{found[kind]['per_second']:.0f} a second")


def _times(figures: dict[str, float]) -> str:
    return f"{figures['p50_ms']:.1f} ms at the median, {figures['p99_ms']:.1f} ms at the 99th percentile"


if __name__ == "__main__":
    main()
