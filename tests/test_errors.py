"""What an error tells the person at the terminal, and the exit status that goes with it."""

from __future__ import annotations

import pytest

from vpntest.errors import CannotMeasure, ConfigError, NothingSelected, UsageError, VpntestError


@pytest.mark.parametrize(
    ("error", "status"),
    [(UsageError, 2), (ConfigError, 2), (NothingSelected, 5), (CannotMeasure, 4), (VpntestError, 3)],
)
def test_exit_status_of_the_contract(error: type[VpntestError], status: int) -> None:
    assert error.exit_code == status


def test_a_config_error_is_one_line_with_place_fault_and_remedy() -> None:
    error = ConfigError("the key is too short", where="home.conf", line=3, hint="copy it again")
    assert str(error) == "home.conf:3: the key is too short; copy it again"
    assert (error.where, error.line, error.reason, error.hint) == (
        "home.conf",
        3,
        "the key is too short",
        "copy it again",
    )


def test_without_line_and_hint_nothing_stands_in_for_them() -> None:
    assert str(ConfigError("is empty", where="home.conf")) == "home.conf: is empty"


def test_every_error_is_of_the_one_tree() -> None:
    for error in (UsageError, ConfigError, NothingSelected, CannotMeasure):
        assert issubclass(error, VpntestError)
