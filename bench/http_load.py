"""The jobs over HTTP, driven as fast as the host takes it; run as a process of its own.

The driver speaks HTTP/1.1 on keep-alive connections through plain sockets: a client library would take more of the
processor, which it shares with the host, than the host does.
"""

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median, quantiles
from threading import local
from typing import Any
from urllib.parse import urlsplit

ORDER = {"order_id": "o", "cost": 500, "product": "Widget", "quantity": 2, "timeout_seconds": 86400}
CALL = {"name": "charge", "call": {"kind": "simulated"}, "retry": {"attempts": 1}}


@dataclass
class Client:
    """One keep-alive connection for each thread."""

    url: str
    _threads: local = field(default_factory=local)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Call, and give status and JSON body; of a body that is text, as ``text``."""
        target = urlsplit(self.url)
        payload = json.dumps(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: {len(payload)}\r\n\r\n"
        connection = getattr(self._threads, "connection", None)
        if connection is None:
            connection = socket.create_connection((target.hostname or "", target.port or 80), timeout=60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._threads.connection = connection
        connection.sendall(head.encode() + payload)
        return _read(connection)

    def start(self) -> str:
        """Start an order that waits for its approval."""
        status, answer = self.call("POST", "/start-purchase-order", ORDER)
        assert status == 202, answer
        instance: str = answer["instance_id"]
        return instance

    def decide(self, instance: str) -> None:
        """Approve it."""
        body = {"approver_name": "Bench", "approved": True}
        status, answer = self.call("POST", f"/signal-approval/{instance}", body)
        assert status == 200, answer

    def pause(self, instance: str) -> None:
        """Pause it."""
        status, answer = self.call("POST", f"/api/v1/executions/{instance}/pause", {"reason": "Measured"})
        assert (status, answer.get("status")) == (200, "paused"), answer

    def resume(self, instance: str) -> None:
        """Resume it."""
        status, answer = self.call("POST", f"/api/v1/executions/{instance}/resume", {"resume_data": {"seen": True}})
        assert status == 200, answer

    def sign_up(self, name: str) -> None:
        """Start a sign-up, and look until its mail is out."""
        _, answer = self.call("POST", f"/signup/submit?username={name}&email={name}@example.com")
        assert answer["text"] == "workflow started", answer
        while "mailed" not in (each["action"] for each in self.call("GET", f"/api/signups/{name}")[1]["history"]):
            time.sleep(0.001)

    def verify(self, name: str) -> str:
        """Verify a sign-up, and give the answer."""
        answer: str = self.call("POST", f"/signup/verify?username={name}&source=bench")[1]["text"]
        return answer

    def wait_for_result(self, instance: str, pause: float = 0.001) -> None:
        """Look until the outcome is there."""
        while self.call("GET", f"/status/{instance}")[1]["output"] is None:
            time.sleep(pause)


def _read(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += _received(connection)
    is_text = b"\ncontent-type: text/plain" in head.lower()
    return int(head[9:12]), {"text": body.decode()} if is_text else json.loads(body)


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the host closed the connection")
    return data


def round_trips(client: Client, count: int) -> dict[str, float]:
    """Start, decide, see the result; one after another."""
    times = []
    for number in range(count + 20):
        before = time.perf_counter()
        instance = client.start()
        client.decide(instance)
        client.wait_for_result(instance)
        if number >= 20:
            times.append(time.perf_counter() - before)
    return {"p50_ms": median(times) * 1000, "p99_ms": quantiles(times, n=100)[98] * 1000}


def throughput(client: Client, count: int, at_once: int) -> dict[str, float]:
    """Start, decide and complete many, some at a time."""

    def one(_number: int) -> None:
        instance = client.start()
        client.decide(instance)
        client.wait_for_result(instance, pause=0.02)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(at_once)))
        before = time.perf_counter()
        list(pool.map(one, range(count)))
        return {"per_second": count / (time.perf_counter() - before)}


def fill(client: Client, count: int, at_once: int) -> dict[str, Any]:
    """Start many, and see that they wait: what is started is taken in turn, so the last one waits when all do."""
    before = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        instances = list(pool.map(lambda _: client.start(), range(count - 1)))
    instances.append(client.start())
    while (client.call("GET", f"/status/{instances[-1]}")[1]["custom_status"] or {}).get(
        "phase"
    ) != "waiting_for_approval":
        time.sleep(0.05)
    return {"seconds": time.perf_counter() - before, "instances": instances}


def decide_some(client: Client, instances: list[str]) -> dict[str, float]:
    """Decide one after another, among many that wait."""
    times = []
    for instance in instances:
        before = time.perf_counter()
        client.decide(instance)
        times.append(time.perf_counter() - before)
    return {"p50_ms": median(times) * 1000, "p99_ms": quantiles(times, n=100)[98] * 1000}


def pages(client: Client, count: int) -> dict[str, float]:
    """Read pages of 50 open waits, one after another; from the start again at the end of the list."""
    times = []
    continuation = ""
    for _ in range(count):
        before = time.perf_counter()
        found = client.call("GET", f"/api/waits?limit=50&continuation={continuation}")[1]
        times.append(time.perf_counter() - before)
        continuation = found["continuation"] or ""
    return {"p50_ms": median(times) * 1000, "p99_ms": quantiles(times, n=100)[98] * 1000}


def pause_all(client: Client, instances: list[str], at_once: int) -> dict[str, float]:
    """Pause many, some at a time."""
    before = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(client.pause, instances))
    return {"seconds": time.perf_counter() - before}


def pause_and_resume(client: Client, instances: list[str]) -> dict[str, dict[str, float]]:
    """Resume and pause again, one after another, among many that are paused. Gives the times of both."""
    paused, resumed = [], []
    for instance in instances:
        before = time.perf_counter()
        client.resume(instance)
        between = time.perf_counter()
        client.pause(instance)
        resumed.append(between - before)
        paused.append(time.perf_counter() - between)
    return {
        what: {"p50_ms": median(times) * 1000, "p99_ms": quantiles(times, n=100)[98] * 1000}
        for what, times in (("paused", paused), ("resumed", resumed))
    }


def paused_pages(client: Client, count: int) -> dict[str, float]:
    """Read pages of 50 paused executions, one after another; from the start again at the end of the list."""
    times = []
    continuation = ""
    for _ in range(count):
        before = time.perf_counter()
        found = client.call("GET", f"/api/v1/executions/paused?limit=50&continuation={continuation}")[1]
        times.append(time.perf_counter() - before)
        assert found["count"] == len(found["executions"]), found
        assert found["count"] or continuation, "nothing is paused"
        continuation = found["continuation"] or ""
    return {"p50_ms": median(times) * 1000, "p99_ms": quantiles(times, n=100)[98] * 1000}


def guarded_calls(client: Client, count: int) -> dict[str, float]:
    """Make guarded calls that work at once, and see the result; one after another."""
    times = []
    for number in range(count + 20):
        before = time.perf_counter()
        status, started = client.call("POST", "/api/interventions", CALL)
        assert status == 202, started
        while client.call("GET", f"/api/interventions/{started['intervention_id']}")[1]["output"] is None:
            time.sleep(0.001)
        if number >= 20:
            times.append(time.perf_counter() - before)
    return {"p50_ms": median(times) * 1000, "p99_ms": quantiles(times, n=100)[98] * 1000}


def resolve(client: Client, count: int) -> dict[str, float]:
    """Have many calls fail, and then tried again by one call that resolves all of them."""
    failing = CALL | {"call": {"kind": "simulated", "fails": 1}}
    for _ in range(count):
        client.call("POST", "/api/interventions", failing)
    listed: list[dict[str, Any]] = []
    while len(listed) < count:
        time.sleep(0.1)
        listed = client.call("GET", "/api/interventions?limit=100")[1]["interventions"]
    asked = {"fingerprint": listed[0]["fingerprint"], "action": "retry", "by": "Bench", "reason": "It is back"}
    before = time.perf_counter()
    answer = client.call("POST", "/api/interventions/resolve", asked)[1]
    assert answer["resolved"] == count, answer
    return {"seconds": time.perf_counter() - before}


def sign_ups(client: Client, count: int) -> dict[str, dict[str, float]]:
    """Sign up and see that the mail is out, then verify; one after another. Gives the times of both."""
    mailed, done = [], []
    for number in range(count + 10):
        name = f"one-{number}"
        before = time.perf_counter()
        client.sign_up(name)
        mailed.append(time.perf_counter() - before)
        before = time.perf_counter()
        assert client.verify(name) == "done"
        done.append(time.perf_counter() - before)
    return {
        what: {"p50_ms": median(times[10:]) * 1000, "p99_ms": quantiles(times[10:], n=100)[98] * 1000}
        for what, times in (("mailed", mailed), ("done", done))
    }


def verify_at_once(client: Client, count: int, at_once: int) -> dict[str, float]:
    """Verify each of some sign-ups many times at once, and wait for all answers; one of them is ``done``."""
    times = []
    with ThreadPoolExecutor(at_once) as pool:
        for number in range(count + 1):
            name = f"many-{number}"
            client.sign_up(name)
            before = time.perf_counter()
            answers = list(pool.map(client.verify, [name] * at_once))
            times.append(time.perf_counter() - before)
            assert sorted(answers) == ["already verified"] * (at_once - 1) + ["done"], answers
    return {"p50_ms": median(times[1:]) * 1000}


def finish(client: Client, instances: list[str], at_once: int) -> dict[str, float]:
    """Decide all, and wait until each has its result; gives how many have, and how long it took."""

    def one(instance: str) -> bool:
        client.decide(instance)
        client.wait_for_result(instance, pause=0.02)
        return True

    before = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        done = sum(pool.map(one, instances))
    return {"completed": done, "seconds": time.perf_counter() - before}


def main() -> None:
    """Read a job as JSON from standard input, do it, and print its figures as JSON."""
    job = json.load(sys.stdin)
    client = Client(job.pop("url"))
    print(json.dumps(globals()[job.pop("what")](client, **job)))


if __name__ == "__main__":
    main()
