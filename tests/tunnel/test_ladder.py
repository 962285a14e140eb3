from __future__ import annotations

import asyncio
import errno
import itertools
import re
from collections.abc import Callable

import pytest

from vpntest.errors import CannotMeasure
from vpntest.failures import Failure
from vpntest.tunnel.ladder import RUNGS, Climb, Fall, Rung, Step, meaning


def _climb() -> Climb:
    ticks = itertools.count()
    return Climb(lambda: float(next(ticks)))


def test_rungs_are_in_the_order_of_climbing() -> None:
    assert RUNGS[0] == Rung.CONFIG
    assert RUNGS[-1] == Rung.UP
    assert RUNGS.index(Rung.HANDSHAKE) < RUNGS.index(Rung.AUTH) < RUNGS.index(Rung.DATA)


def test_each_rung_becomes_a_step_with_its_times() -> None:
    climb = _climb()
    with climb.rung(Rung.CONFIG):
        pass
    with climb.rung(Rung.ENDPOINT_DNS):
        pass
    assert climb.steps == [Step(Rung.CONFIG, 0.0, 1.0), Step(Rung.ENDPOINT_DNS, 2.0, 3.0)]


def test_the_first_words_that_fit_count() -> None:
    words = ((re.compile("refused$"), Failure.CONNECTION_REFUSED), (re.compile("^x"), Failure.EOF))
    assert meaning("x refused", words) == Failure.CONNECTION_REFUSED
    assert meaning("x refused it", words) == Failure.EOF
    assert meaning("nothing", words) is None


def test_a_fall_is_the_last_step() -> None:
    climb = _climb()
    with pytest.raises(Fall), climb.rung(Rung.AUTH):
        raise Fall(Failure.AUTH_REJECTED, "it said no")
    assert climb.steps == [Step(Rung.AUTH, 0.0, 1.0, Failure.AUTH_REJECTED, "it said no")]


def test_errors_of_sockets_become_words_of_the_vocabulary() -> None:
    climb = _climb()
    with pytest.raises(Fall), climb.rung(Rung.ENDPOINT):
        raise ConnectionRefusedError(111, "refused")
    with pytest.raises(Fall), climb.rung(Rung.ENDPOINT):
        raise TimeoutError
    assert [step.failure for step in climb.steps] == [Failure.CONNECTION_REFUSED, Failure.TIMEOUT]


def test_a_deadline_over_the_whole_climb_ends_it_where_it_was() -> None:
    climb = _climb()

    async def body() -> None:
        async with asyncio.timeout(0.01):
            with climb.rung(Rung.HANDSHAKE):
                await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(body())
    assert [(step.rung, step.failure) for step in climb.steps] == [(Rung.HANDSHAKE, Failure.TIMEOUT)]


@pytest.mark.parametrize("fault", [ZeroDivisionError, AssertionError, TypeError, AttributeError])
def test_a_fault_of_ours_is_no_step(fault: type[Exception]) -> None:
    climb = _climb()
    with pytest.raises(fault), climb.rung(Rung.CONFIG):
        raise fault
    assert climb.steps == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda: int("many"),
        lambda: b"\xff".decode(),
        lambda: list[int]()[0],
        lambda: dict[str, int]()["errno"],
        lambda: (_ for _ in ()).throw(asyncio.IncompleteReadError(b"password", 9)),
        lambda: (_ for _ in ()).throw(asyncio.LimitOverrunError("password", 9)),
    ],
)
def test_an_answer_that_cannot_be_read_ends_the_climb_and_not_the_run(answer: Callable[[], object]) -> None:
    climb = _climb()
    with pytest.raises(Fall), climb.rung(Rung.HANDSHAKE):
        answer()
    [step] = climb.steps
    assert step.failure is not None
    assert step.failure.startswith("unknown_failure: ")
    assert step.failure.endswith("Error")
    assert "many" not in step.detail + step.failure
    assert "password" not in step.detail + step.failure


SHORTAGES = (
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN),
    *(errno.ENOSPC, errno.EDQUOT),
)


@pytest.mark.parametrize("number", SHORTAGES)
def test_what_this_box_runs_short_of_is_no_step(number: int) -> None:
    climb = _climb()
    with pytest.raises(CannotMeasure, match="this box is out of") as caught, climb.rung(Rung.ENDPOINT):
        raise OSError(number, "x")
    with pytest.raises(CannotMeasure), climb.rung(Rung.HANDSHAKE):
        raise Fall(Failure.CARRIER_EXITED) from OSError(number, "x")
    assert climb.steps == []
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
