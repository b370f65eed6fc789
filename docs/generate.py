"""Writes what the documentation repeats from the code: the README's column table and the record's JSON schema.

python docs/generate.py           write
python docs/generate.py --check   exit with 1 when a file is out of date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from convbench.results import COLUMNS, json_schema

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- columns: written by docs/generate.py -->", "<!-- end of columns -->"


def columns_table() -> str:
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.type.__name__} | {c.unit} | {c.doc} |" for c in COLUMNS]
    return "\n".join(lines)


def documents() -> dict[Path, str]:
    """Path -> what the file must hold."""
    readme = (ROOT / "README.md").read_text()
    head, rest = readme.split(BEGIN)
    tail = rest.split(END)[1]
    return {
        ROOT / "README.md": f"{head}{BEGIN}\n{columns_table()}\n{END}{tail}",
        ROOT / "docs" / "run.schema.json": json.dumps(json_schema(), indent=1) + "\n",
    }


def main(check: bool) -> int:
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    if check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date; run python docs/generate.py")
        return bool(stale)
    for path, text in documents().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
