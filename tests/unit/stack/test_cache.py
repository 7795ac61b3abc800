"""Where downloads are kept."""

from pathlib import Path

from pixorly_stack.cache import cache_folder


def test_downloads_are_kept_in_the_users_cache_folder(tmp_path: Path) -> None:
    assert cache_folder({"HOME": str(tmp_path)}) == tmp_path / ".cache" / "pixorly"


def test_the_desktops_cache_setting_goes_before_the_home_folder(tmp_path: Path) -> None:
    assert cache_folder({"HOME": "/nowhere", "XDG_CACHE_HOME": f"{tmp_path}/x"}) == tmp_path / "x" / "pixorly"


def test_a_relative_cache_setting_is_ignored(tmp_path: Path) -> None:
    assert cache_folder({"HOME": str(tmp_path), "XDG_CACHE_HOME": "x"}) == tmp_path / ".cache" / "pixorly"


def test_our_own_setting_goes_before_all(tmp_path: Path) -> None:
    assert cache_folder({"HOME": "/nowhere", "PIXORLY_CACHE_DIR": f"{tmp_path}/mine"}) == tmp_path / "mine"


def test_without_a_home_downloads_are_kept_in_the_checkout(tmp_path: Path) -> None:
    assert cache_folder({}, checkout=tmp_path) == tmp_path / ".cache"
    assert cache_folder({"HOME": ""}, checkout=tmp_path) == tmp_path / ".cache"


def test_a_home_that_is_a_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "home").touch()

    assert cache_folder({"HOME": f"{tmp_path}/home"}, checkout=tmp_path) == tmp_path / ".cache"
