"""A real `larder-node` for tests and proofs, on a port of this host that was free just now.

What a reader would get wrong: `kill` is SIGKILL and can be followed by `start`: the same address,
and nothing in memory any more.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType

__all__ = ["Node", "free_port", "node_binary"]


class Node:
    """One shard; runs from construction to `close`, or to the end of a `with`."""

    def __init__(self, memory: str = "256MiB", *flags: str) -> None:
        # Short, whatever TMPDIR is: paths of Unix sockets are.
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="larder-", dir="/tmp"))
        port = free_port()
        self.endpoint = f"127.0.0.1:{port}"
        self.socket = self._directory / "node.sock"
        self.command = [str(node_binary()), "--listen", self.endpoint, "--memory", memory]
        self.command += ["--shards", "1", "--admin", "off", "--pin-cores", "off"]
        self.command += ["--uds", str(self.socket), *flags]
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Returns when it serves."""
        with open(self._directory / "node.log", "a") as log:
            self._process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            self.kill()
            raise RuntimeError((self._directory / "node.log").read_text())

    def kill(self) -> None:
        """Ends it as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def seed(self, path: str) -> str:
        """What a client that is to take `path` is given: an address or a Unix socket."""
        return self.endpoint if path == "tcp" else f"unix:{self.socket}"

    def pause(self) -> None:
        """Has it stand still: when this returns, no thread of it runs."""
        os.kill(self.pid, signal.SIGSTOP)
        for state in pathlib.Path(f"/proc/{self.pid}/task").glob("*/stat"):
            while state.read_text().rpartition(")")[2].split()[0] not in "tT":
                time.sleep(0.001)

    def resume(self) -> None:
        """Lets it go on."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def node_binary() -> pathlib.Path:
    """LARDER_NODE_BIN, else what cargo built in this checkout, else what the PATH has."""
    given = os.environ.get("LARDER_NODE_BIN")
    if given:
        return pathlib.Path(given)
    root = pathlib.Path(__file__).resolve().parents[4]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    for profile in ("release", "debug"):
        path = target / profile / "larder-node"
        if path.exists():
            return path
    found = shutil.which("larder-node")
    if found is None:
        raise FileNotFoundError("no larder-node: cargo build --release, or set LARDER_NODE_BIN")
    return pathlib.Path(found)


def free_port() -> int:
    """A port that was free when this returned."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
