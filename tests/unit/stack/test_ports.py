"""Ports are free, and stay the same."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pixorly_stack.ports import Ports, is_free


@contextmanager
def taken(port: int = 0) -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        yield int(server.getsockname()[1])


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with taken() as port:
        assert not is_free(port)
    assert is_free(port)


def test_a_port_stays_the_same_from_one_run_to_the_next(tmp_path: Path) -> None:
    first = Ports(tmp_path / "ports.json").port("api")

    assert Ports(tmp_path / "ports.json").port("api") == first


def test_a_port_that_was_taken_meanwhile_is_given_up(tmp_path: Path) -> None:
    first = Ports(tmp_path / "ports.json").port("api")

    with taken(first):
        assert Ports(tmp_path / "ports.json").port("api") != first


def test_a_preferred_port_is_taken_where_it_is_free(tmp_path: Path) -> None:
    with taken() as port:
        assert Ports(tmp_path / "a.json").port("api", prefer=port) != port

    assert Ports(tmp_path / "b.json").port("api", prefer=port) == port


def test_two_names_never_have_the_same_port(tmp_path: Path) -> None:
    with taken() as port:
        pass
    ports = Ports(tmp_path / "ports.json")

    assert ports.port("a", prefer=port) != ports.port("b", prefer=port)


def test_a_name_keeps_its_port_while_its_own_process_listens_on_it(tmp_path: Path) -> None:
    ports = Ports(tmp_path / "ports.json")
    port = ports.port("api")

    with taken(port):
        assert ports.port("api") == port


def test_ports_chosen_at_once_are_different_and_all_recorded(tmp_path: Path) -> None:
    ports = Ports(tmp_path / "ports.json")
    names = [f"server-{number}" for number in range(64)]
    with ThreadPoolExecutor(16) as threads:
        chosen = list(threads.map(ports.port, names))

    assert len(set(chosen)) == len(names)
    assert json.loads((tmp_path / "ports.json").read_text()) == dict(zip(names, chosen, strict=True))


def test_a_twin_is_free_as_well(tmp_path: Path) -> None:
    port = Ports(tmp_path / "ports.json").port("admin", twin=-10_000)

    assert is_free(port - 10_000)


def test_a_port_that_another_stack_is_about_to_use_is_left_to_it(tmp_path: Path) -> None:
    with taken() as port:
        pass
    claiming = "import sys; from pixorly_stack.ports import claim; claim(int(sys.argv[1])); print(flush=True); input()"
    words = [sys.executable, "-c", claiming, str(port)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert Ports(tmp_path / "a.json").port("api", prefer=port) != port
        other.kill()

    assert Ports(tmp_path / "b.json").port("api", prefer=port) == port


@pytest.mark.parametrize("damage", ["", "{", '{"api": '])
def test_a_damaged_record_is_begun_anew(tmp_path: Path, damage: str) -> None:
    (tmp_path / "ports.json").write_text(damage)

    assert Ports(tmp_path / "ports.json").port("api")
