"""Which RabbitMQ is run."""

import stat
from pathlib import Path

import pytest

from pixorly_stack.errors import PartMissingError
from pixorly_stack.ports import Ports
from pixorly_stack.rabbitmq import Installation, RabbitMQ, find_installed
from pixorly_stack.rabbitmq_packages import ERL, WANTED, fetched, package_folder
from pixorly_stack.rabbitmq_scripts import version_of


def scripts(folder: Path, version: str) -> Path:
    sbin = folder / f"rabbitmq_server-{version}" / "sbin"
    sbin.mkdir(parents=True)
    (sbin / "rabbitmq-server").touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "rabbitmq-server").symlink_to(sbin / "rabbitmq-server")
    return folder / "bin"


def test_the_version_stands_in_the_name_of_the_folder(tmp_path: Path) -> None:
    assert version_of(scripts(tmp_path, "3.12.1")) == (3, 12, 1)
    assert version_of(tmp_path / "missing") == ()


def test_one_that_is_new_enough_is_taken(tmp_path: Path) -> None:
    chosen = scripts(tmp_path, "4.1.0")

    installed = find_installed(chosen)

    assert installed is not None
    assert installed.scripts == chosen


def test_one_that_is_too_old_is_refused_with_ways_out(tmp_path: Path) -> None:
    with pytest.raises(PartMissingError, match="PIXORLY_AMQP_URL") as caught:
        find_installed(scripts(tmp_path, "3.9.27"))

    assert "docker compose up" in str(caught.value)


def test_a_rabbitmq_without_erlang_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartMissingError, match="Erlang"):
        Installation(tmp_path, ()).program("a-program-that-is-not-there")


def test_packages_count_only_when_they_are_whole(tmp_path: Path) -> None:
    package_folder(tmp_path).mkdir()
    assert fetched(tmp_path) is None

    (package_folder(tmp_path) / "complete").touch()
    assert fetched(tmp_path) == package_folder(tmp_path)


@pytest.mark.parametrize("name", ["rabbitmq-server", "erlang-base", "libssl3", "libssl3t64", "libstdc++6", "zlib1g"])
def test_what_rabbitmq_needs_is_fetched(name: str) -> None:
    assert WANTED.match(name)


@pytest.mark.parametrize("name", ["adduser", "socat", "libc6", "logrotate", "libssl-dev"])
def test_what_every_system_has_is_not_fetched(name: str) -> None:
    assert not WANTED.match(name)


def test_everything_listens_on_the_loopback_address_only(tmp_path: Path) -> None:
    node = RabbitMQ(tmp_path, Ports(tmp_path / "ports.json"), "secret", tmp_path)

    listeners = [
        line for line in node._configuration().splitlines() if ".ip = " in line or line.startswith("listeners")
    ]

    assert len(listeners) == 3
    assert all("127.0.0.1" in line for line in listeners)


def test_the_cookie_is_for_its_owner_only_and_kept(tmp_path: Path) -> None:
    node = RabbitMQ(tmp_path, Ports(tmp_path / "ports.json"), "secret", tmp_path)

    node._write_cookie()
    cookie = (tmp_path / ".erlang.cookie").read_text()
    node._write_cookie()

    assert (tmp_path / ".erlang.cookie").read_text() == cookie
    assert stat.S_IMODE((tmp_path / ".erlang.cookie").stat().st_mode) == 0o400


def test_the_shim_is_a_shell_script() -> None:
    assert ERL.startswith("#!/bin/sh\n")
