"""A real node for each test session, in a directory of its own, ended by its process id.

The program is LARDER_NODE_BIN, or what the checkout was built to.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import larder


def node_program() -> str:
    given = os.environ.get("LARDER_NODE_BIN")
    if given:
        return given
    root = Path(__file__).resolve().parents[3]
    for profile in ("release", "debug"):
        program = root / "target" / profile / "larder-node"
        if program.exists():
            return str(program)
    pytest.exit("no larder-node: cargo build -p larder-node, or name one by LARDER_NODE_BIN")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Node:
    """A ``larder-node`` process of one shard."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.uds = directory / f"node-{self.address.split(':')[1]}"
        log = open(directory / "node.log", "ab")
        command = [node_program(), "--listen", self.address, "--admin", "off", "--shards", "1"]
        command += ["--uds", str(self.uds), "--memory", "256MiB", "--pin-cores", "off"]
        self.process = subprocess.Popen([*command, *flags], stdout=log, stderr=log)
        log.close()

    def await_ready(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                larder.connect(self.address).close()
                return
            except larder.Unavailable:
                time.sleep(0.05)
        raise RuntimeError("the node did not come up")

    def stop(self) -> None:
        """Ends it as a crash would."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def pause(self) -> None:
        """Has it stand still: when this returns, no thread of it runs."""
        os.kill(self.process.pid, signal.SIGSTOP)
        states = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        for state in states:
            while state.read_text().rpartition(")")[2].split()[0] not in "tT":
                time.sleep(0.001)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    # Short: paths of Unix sockets are.
    path = Path(tempfile.mkdtemp(prefix="larder-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def node(directory: Path) -> Iterator[Node]:
    node = Node(directory)
    try:
        node.await_ready()
        yield node
    finally:
        node.stop()


@pytest.fixture
def own_node(directory: Path) -> Iterator[Node]:
    """A node that a test may end or stop."""
    node = Node(directory)
    try:
        node.await_ready()
        yield node
    finally:
        node.stop()


@pytest.fixture(params=["tcp", "shm"])
def client(node: Node, request: pytest.FixtureRequest) -> Iterator[larder.Client]:
    seed = node.address if request.param == "tcp" else f"unix:{node.uds}"
    with larder.connect(seed, path=request.param, deadline=5.0) as client:
        yield client


@pytest.fixture
def tcp_client(node: Node) -> Iterator[larder.Client]:
    with larder.connect(node.address, path="tcp", deadline=5.0) as client:
        yield client


@pytest.fixture
def store(client: larder.Client, request: pytest.FixtureRequest) -> Iterator[larder.Store]:
    with client.namespace(tenant="tests", model=request.node.name[:200]) as store:
        yield store


@pytest.fixture
def in_child() -> Callable[[Callable[[], bool]], bool]:
    """Whether something holds in a forked child, which has ten seconds to find out."""

    def run(holds: Callable[[], bool]) -> bool:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if holds() else 1
            finally:
                os._exit(status)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status == 0
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise AssertionError("the child hangs")

    return run
