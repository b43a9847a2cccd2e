"""The JSON Schema of the results of `kin bench`, as docs/reference has it; ``python -m
tests.unit.bench_schema`` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from kinfolk.bench.results import FORMAT, VERSION, Document

PATH = Path(__file__).parents[2] / "docs" / "reference" / "kin-bench.schema.json"


def schema() -> dict[str, Any]:
    """Of the file that this kinfolk writes."""
    described: dict[str, Any] = json.loads(json.dumps(msgspec.json.schema(Document)))
    fields = described["$defs"]["Document"]["properties"]
    fields["format"]["const"], fields["version"]["const"] = FORMAT, VERSION
    return described


if __name__ == "__main__":
    PATH.write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
