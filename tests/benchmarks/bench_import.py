"""Time ``import nvcatalog`` in fresh processes, and list the heavy modules it loads: there must be none."""

from __future__ import annotations

import json
import subprocess
import sys

import _bench as bench
from _bench import Measurement

HEAVY = (
    "duckdb",
    "nibabel",
    "numpy",
    "pandas",
    "pyarrow",
    "requests",
    "rich",
    "scipy",
    "sklearn",
    "tqdm",
    "typer",
)

# `nothing` shows what the two readings of the clock cost; `numpy` is there to compare with.
CODE = """
import time, sys, json, resource
started, cpu = time.perf_counter(), time.process_time()
{statement}
took = time.perf_counter() - started, time.process_time() - cpu
print(json.dumps([*took, sorted(set(sys.modules) & set({heavy!r}))]))
"""


def import_in_fresh_process(statement: str) -> Measurement:
    """Run a statement in a new interpreter, whose own start is not counted."""
    code = CODE.format(statement=statement, heavy=HEAVY)
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    wall_s, cpu_s, loaded = json.loads(output)
    return Measurement(wall_s, cpu_s, facts={"loaded": loaded})


def main() -> None:
    """Measure and print."""
    options = bench.parser(__doc__, repeat=15).parse_args()
    statements = {"nothing": "pass", "import nvcatalog": "import nvcatalog", "import numpy": "import numpy"}
    sides: dict[str, list[Measurement]] = {name: [] for name in statements}
    for _ in range(options.repeat):
        for name, statement in statements.items():
            sides[name].append(import_in_fresh_process(statement))
    bench.table(sides, base="import nvcatalog")
    loaded = sorted({module for run in sides["import nvcatalog"] for module in run.facts["loaded"]})
    print(f"heavy modules loaded by import nvcatalog: {', '.join(loaded) or 'none'}")
    bench.verdict("seconds to import nvcatalog", bench.median_s(sides["import nvcatalog"]), at_most=0.1)


if __name__ == "__main__":
    main()
