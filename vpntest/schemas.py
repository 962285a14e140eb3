"""The JSON Schemas of all that machines read: one file for each document, beside the module that writes it.

    python -m vpntest.schemas           # after a change of a type: writes the files anew

Fields are added to a document, and never changed in meaning. A schema is made from the document's type; its title is
the document's own `schema`, such as `vpntest.run/1`.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec

_TYPES: Final = (
    ("vpntest.report.document", "Document"),
    ("vpntest.report.checked", "Report"),
    ("vpntest.history.store", "History"),
    ("vpntest.history.changes", "Diff"),
    ("vpntest.history.trend", "Trend"),
    ("vpntest.lab.verify", "Verification"),
    ("vpntest.doctor", "Report"),
)


def published() -> dict[Path, str]:
    """What each file must hold. The lab's modules are loaded for it."""
    schemas = {}
    for module, name in _TYPES:
        loaded = import_module(module)
        made = _schema(getattr(loaded, name))
        name = made["title"].partition(".")[2].partition("/")[0]
        file = Path(str(loaded.__file__)).with_name(f"{name}.schema.json")
        schemas[file] = json.dumps(made, indent=2, sort_keys=True) + "\n"
    return schemas


def _schema(document: type[msgspec.Struct]) -> dict[str, Any]:
    made = msgspec.json.schema(document)
    (title,) = made["$defs"][document.__name__]["properties"]["schema"]["enum"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **made}


if __name__ == "__main__":
    for file, text in published().items():
        file.write_text(text, encoding="utf-8")
