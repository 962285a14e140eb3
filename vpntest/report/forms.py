"""The forms that a report can have, and the one place that knows which module writes which."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

from vpntest.judge.verdict import Judgement
from vpntest.probe.observation import Record
from vpntest.report.view import View

Form = Literal["table", "markdown", "html", "csv", "json", "junit", "ooni", "prometheus"]
FORMS: Final[tuple[Form, ...]] = ("table", "markdown", "html", "csv", "json", "junit", "ooni", "prometheus")


class Look(Struct, frozen=True):
    """How a report for people is shown; the forms for machines are always whole."""

    width: int = 120
    """Columns of the terminal."""
    colour: bool = False
    unicode: bool = True
    wide: bool = False
    """The matrix in one piece, however wide."""
    view: View = View()


def written(form: Form, record: Record, judgement: Judgement, look: Look) -> Iterable[str]:
    """The report in pieces; the last one ends in a newline. Raises UsageError where the view names what the run lacks.

    Each form's module is loaded only for that form.
    """
    match form:
        case "table":
            from vpntest.report import terminal

            shown = terminal.render(
                record,
                judgement,
                width=look.width,
                colour=look.colour,
                unicode=look.unicode,
                wide=look.wide,
                view=look.view,
            )
            return (shown,)
        case "markdown":
            from vpntest.report import markdown

            return (markdown.render(record, judgement, look.view),)
        case "html":
            from vpntest.report import html

            return (html.render(record, judgement), "\n")
        case "csv":
            from vpntest.report import spreadsheet

            return (spreadsheet.render(record, judgement),)
        case "json":
            from vpntest.report import document

            return (document.encode(record, judgement).decode(), "\n")
        case "junit":
            from vpntest.report import junit

            return (junit.render(record, judgement),)
        case "ooni":
            from vpntest.report import ooni

            return ooni.render(record, judgement)
        case "prometheus":
            from vpntest.report import metrics

            return (metrics.render(record, judgement),)
