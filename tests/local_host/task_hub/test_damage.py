"""Files that are damaged, disks that are full, folders that cannot be written: a sentence, and never a hang."""

import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from local_host.task_hub import TaskHub, TaskHubError
from local_host.task_hub.hub import FILE_NAME
from tests.hosting import ROOT, start_process
from tests.local_host.task_hub.fakes import Hands, activity, completed, count, raise_event, running, start, turn

APPS = Path(__file__).parents[1] / "apps"
WAL = f"{FILE_NAME}-wal"


async def filled(folder: Path, number: int = 200) -> None:
    """Make a file with instances that wait, some of them with messages, activities and timers."""
    async with running(folder) as hub:
        worker = Hands(turns=1000)
        hub.connect(worker)
        for n in range(number):
            await hub.execute(start(f"i{n}", given="x" * 500))
        for n in range(number // 2):
            await hub.dispatcher.complete(await worker.item(n), turn(activity("n")))
            await hub.execute(raise_event(f"i{n}", payload="y" * 200))


def copied(folder: Path, to: Path, *names: str) -> Path:
    """Copy what is in a folder now, as a crash would leave it."""
    to.mkdir()
    for name in names or (FILE_NAME, WAL):
        shutil.copyfile(folder / name, to / name)
    return to


async def outcome_of(folder: Path) -> str:
    """Start and use a hub on what is in a folder: everything ends in order, or with a sentence."""
    hub = TaskHub(folder)
    try:
        await asyncio.wait_for(hub.start(), 20)
    except TaskHubError as error:
        return str(error)
    try:
        worker = Hands()
        hub.connect(worker)
        await asyncio.wait_for(hub.execute(start("new")), 20)
        await asyncio.sleep(0.02)
    except TaskHubError as error:
        return str(error)
    finally:
        await asyncio.wait_for(hub.stop(), 20)
    return "fine"


# Damaged files


@pytest.mark.parametrize("what", ["header", "first page", "half", "two thirds", "no whole page"])
def test_a_file_that_is_broken_or_cut_is_refused_with_a_sentence_and_kept(tmp_path: Path, what: str) -> None:
    asyncio.run(filled(tmp_path))
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    damaged = {
        "header": b"\0" * 16 + content[16:],
        "first page": content[:100] + b"\xff" * 3996 + content[4096:],
        "half": content[: len(content) // 2],
        "two thirds": content[: len(content) * 2 // 3 + 7],
        "no whole page": content[:1000],
    }[what]
    file.write_bytes(damaged)
    said = asyncio.run(outcome_of(tmp_path))
    assert str(file) in said or "could not be" in said
    assert "restore it from a copy" in said or "could not be" in said
    assert len(file.read_bytes()) >= len(damaged)
    file.write_bytes(content)  # a copy brings it back
    (tmp_path / WAL).unlink(missing_ok=True)
    assert asyncio.run(outcome_of(tmp_path)) == "fine"


def test_the_command_line_says_that_a_file_is_damaged_without_a_traceback(tmp_path: Path) -> None:
    asyncio.run(filled(tmp_path))
    file = tmp_path / FILE_NAME
    file.write_bytes(file.read_bytes()[:100_000])
    process = start_process("--app-dir", str(APPS / "durable"), "--data", str(tmp_path), output=subprocess.PIPE)
    try:
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    (line,) = said.decode().splitlines()
    assert line.startswith("local_host: ")
    assert "damage" in line


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_in_any_pages_end_in_a_sentence_or_in_order_and_never_in_a_hang(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    asyncio.run(filled(tmp_path, 60))
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice((1, 5, 40))):
        at = chance.randrange(100, len(content) - 64)
        content[at : at + 64] = chance.randbytes(64)
    file.write_bytes(content)
    said = asyncio.run(outcome_of(tmp_path))
    assert said == "fine" or said.endswith(".")


# The log of what is not yet in the file


def test_a_torn_end_of_the_log_loses_nothing_that_was_acknowledged_before_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    sizes: list[int] = []

    async def write() -> Path:
        async with running(data) as hub:
            for n in range(10):
                await hub.execute(start(f"i{n}", given="x" * 3000))
                sizes.append((data / WAL).stat().st_size)
            return copied(data, tmp_path / "crashed")

    async def read(folder: Path) -> list[str]:
        async with running(folder) as hub:
            rows = hub.reader.execute("SELECT instance_id FROM instances ORDER BY id").fetchall()
            assert hub.reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return [row for (row,) in rows]

    crashed = asyncio.run(write())
    assert sizes == sorted(set(sizes))
    chance = random.Random(1)
    for number in range(1, 10):
        cut = sizes[number] - chance.randrange(1, sizes[number] - sizes[number - 1])
        for name, tail in (("cut", b""), ("torn", chance.randbytes(sizes[number] - cut))):
            folder = copied(crashed, tmp_path / f"{name}{number}")
            with (folder / WAL).open("r+b") as log:
                log.truncate(cut)
                log.seek(cut)
                log.write(tail)
            assert asyncio.run(read(folder)) == [f"i{n}" for n in range(number)]


def test_without_its_log_a_file_is_what_it_was_before_and_still_in_order(tmp_path: Path) -> None:
    data = tmp_path / "data"
    asyncio.run(filled(data))

    async def more() -> Path:
        async with running(data) as hub:
            await hub.execute(start("more"))
            return copied(data, tmp_path / "crashed", FILE_NAME)

    async def look(folder: Path) -> int:
        async with running(folder) as hub:
            return count(hub, "instances")

    assert asyncio.run(look(asyncio.run(more()))) == 200
    assert asyncio.run(look(data)) == 201


# Disks that are full, and folders that cannot be written

FULL = """
import asyncio, json, resource, sys
from pathlib import Path
import grpc
import grpc.aio
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from local_host.task_hub import TaskHub, dispatch, timers
from local_host.task_hub.hub import FILE_NAME
from tests.local_host.task_hub.fakes import Hands, activity, completed, count, result, start, timer, turn

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(folder):
    dispatch.PAUSE_AFTER_ERROR = timers.PAUSE_AFTER_ERROR = 0.1
    hub = TaskHub(folder)
    await hub.start()
    worker = Hands()
    hub.connect(worker)
    await hub.execute(start("a"))
    await hub.dispatcher.complete(await worker.item(0), turn(activity("mail"), timer(hub.clock.now() + 300_000)))
    mail = await worker.item(1)
    fires = 0
    real = timers.fire
    def counting(tx):
        nonlocal fires
        fires += 1
        return real(tx)
    timers.fire = counting
    room((folder / (FILE_NAME + "-wal")).stat().st_size)
    refused, codes = [], []
    try:
        await hub.dispatcher.complete(mail, result("sent"))
    except Exception as error:
        refused.append(str(error))
    async with grpc.aio.insecure_channel(hub.address) as channel:
        stub = stubs.TaskHubSidecarServiceStub(channel)
        for n in range(30):
            asked = pb.CreateInstanceRequest(instanceId=f"i{n}", name="any")
            try:
                await stub.StartInstance(asked, metadata=hub.metadata, timeout=5)
            except grpc.aio.AioRpcError as error:
                codes.append(error.code().name)
                refused.append(error.details())
        state = await stub.GetInstance(pb.GetInstanceRequest(instanceId="a"), metadata=hub.metadata, timeout=5)
        assert state.exists
    await asyncio.sleep(1)
    full = {"refused": sorted(set(refused)), "codes": sorted(set(codes)), "instances": count(hub, "instances"),
            "fires": fires, "handed": len(worker.items), "messages": count(hub, "messages")}
    room(resource.RLIM_INFINITY)
    kinds = set()
    for n in range(2, 10):
        async with asyncio.timeout(10):
            item = await worker.item(n)
        kinds |= {e.WhichOneof("eventType") for e in item.work.new}
        if {"taskCompleted", "timerFired"} <= kinds:
            break
        await hub.dispatcher.complete(item, turn())
    await hub.dispatcher.complete(item, turn(completed("done")))
    await hub.execute(start("later"))
    full["after"] = hub.reader.execute("SELECT output FROM instances ORDER BY id").fetchall()
    full["check"] = hub.reader.execute("PRAGMA integrity_check").fetchone()[0]
    full["activities"] = sum(each.kind == "activity" for each in worker.items)
    await hub.stop()
    print(json.dumps(full))

asyncio.run(main(Path(sys.argv[1])))
"""


def ran(script: str, *arguments: str) -> Any:
    """Run a script in a process of its own, and give what it printed as JSON."""
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, check=False, timeout=50
    )
    assert process.returncode == 0, process.stderr.decode()
    return json.loads(process.stdout)


def test_a_full_disk_is_said_so_loses_nothing_and_is_got_over(tmp_path: Path) -> None:
    seen = ran(FULL, str(tmp_path))
    assert seen["codes"] == ["UNAVAILABLE"]
    assert seen["refused"]
    assert all(each.startswith("The task hub's file could not be written: ") for each in seen["refused"])
    assert (seen["instances"], seen["messages"], seen["handed"]) == (1, 0, 2)
    assert 3 <= seen["fires"] <= 100  # about ten times in a second, and not as often as it can
    assert seen["after"] == [["done"], [None]]
    assert seen["check"] == "ok"
    assert seen["activities"] == 1  # a mail that could not be noted as sent is not sent again


def test_what_was_refused_on_a_full_disk_is_not_there_after_a_restart(tmp_path: Path) -> None:
    ran(FULL, str(tmp_path))

    async def look() -> int:
        async with running(tmp_path) as hub:
            return count(hub, "instances")

    assert asyncio.run(look()) == 2


READ_ONLY = """
import asyncio, concurrent.futures.thread, json, os, sys
from pathlib import Path
from local_host.task_hub import TaskHub, TaskHubError

async def attempt(folder):
    try:
        hub = TaskHub(folder)
        await hub.start()
    except TaskHubError as error:
        return str(error)
    await hub.stop()
    return "started"

async def main(folder):
    if os.geteuid() == 0:
        folder.chmod(0o500)
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    else:
        folder.chmod(0o500)
    said = [await attempt(folder), await attempt(folder / "below")]
    folder.chmod(0o700)
    print(json.dumps([*said, await attempt(folder)]))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_folder_that_may_not_be_written_is_refused_with_a_sentence() -> None:
    # Below pytest's own folders nobody but their owner comes.
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent, "data")
        folder.mkdir()
        said = ran(READ_ONLY, str(folder))
        assert "cannot be" in said[0]
        assert "cannot be used: Permission denied" in said[1]
        assert said[2] == "started"


def test_an_instance_with_damaged_messages_does_not_keep_the_others_from_going_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as hub:
            await hub.execute(start("broken"))
            await hub.execute(raise_event("broken"))
            await hub.execute(lambda tx: tx.run("UPDATE messages SET event = x'ff'"))
        async with running(tmp_path) as hub:
            worker = Hands()
            hub.connect(worker)
            await hub.execute(start("fine"))
            await hub.dispatcher.complete(await worker.item(0), turn(completed("done")))
            rows = hub.reader.execute("SELECT instance_id, output FROM instances ORDER BY id").fetchall()
            assert rows == [("broken", None), ("fine", "done")]

    asyncio.run(scenario())
