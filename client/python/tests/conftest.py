"""What tests share: nodes, clients and stores.

What a reader would get wrong: `node` is one for the whole session, so a test that would end it or
stop it takes `own_node`.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from node_process import Node

import larder


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


@pytest.fixture
def own_node() -> Iterator[Node]:
    """A node that a test may end or stop."""
    with Node() as node:
        yield node


@pytest.fixture(params=["tcp", "shm"])
def client(node: Node, request: pytest.FixtureRequest) -> Iterator[larder.Client]:
    with larder.connect(node.seed(request.param), path=request.param, deadline=5.0) as client:
        yield client


@pytest.fixture
def tcp_client(node: Node) -> Iterator[larder.Client]:
    with larder.connect(node.endpoint, path="tcp", deadline=5.0) as client:
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
