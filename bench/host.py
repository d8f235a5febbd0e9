"""The host under measurement: a process of its own, as a user starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Host:
    """``python -m local_host start`` on a free port."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._log = data / "host.log"
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start, and give the seconds until it serves."""
        self._data.mkdir(parents=True, exist_ok=True)
        before = time.perf_counter()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local_host", "start", "--port", "0", "--data", str(self._data)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHON_THREADPOOL_THREAD_COUNT": "32"},
            )
        while not (found := re.search(r"^Serving: +(\S+)", self._log.read_text(), re.MULTILINE)):
            if self.process.poll() is not None:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.005)
        self.url = found[1]
        return time.perf_counter() - before

    def kill(self) -> None:
        """End it at once, as a power loss does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    def memory(self) -> float:
        """Megabytes of memory that the process holds."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def disk(self) -> float:
        """Megabytes of the files on disk, of the hub and of the records."""
        return sum(file.stat().st_size for file in self._data.glob("*.db*")) / 1e6

    def drive(self, what: str, **job: Any) -> dict[str, Any]:
        """Have a driver process do a job, and give its figures."""
        given = json.dumps({"url": self.url, "what": what, **job})
        driver = subprocess.run(
            [sys.executable, "-m", "bench.http_load"], cwd=ROOT, input=given.encode(), capture_output=True, check=False
        )
        if driver.returncode:
            raise RuntimeError(driver.stderr.decode() + "\n" + self._log.read_text()[-3000:])
        figures: dict[str, Any] = json.loads(driver.stdout)
        return figures
