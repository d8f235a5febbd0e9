"""What the figures were measured on."""

import os
import platform
import sqlite3
import tempfile
import time
from pathlib import Path
from statistics import median


def describe() -> str:
    """One line on the machine, and what a commit to its disk costs."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{os.cpu_count()} x {cpu}, {pages / 2**30:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; "
        f"a forced write to its disk takes {_forced_write() * 1000:.2f} ms"
    )


def _forced_write() -> float:
    times = []
    with tempfile.TemporaryFile(dir=".") as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            file.flush()
            before = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - before)
    return median(times)
