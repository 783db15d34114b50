"""`python -m tests.crash --kills 200 --seed 1`: exit code 0 when nothing was found.

With `--postgresql` ledger and engine are in a PostgreSQL of its own, which is thrown away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

from tests.crash.harness import as_text, run
from tests.postgresql import start_postgresql


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep data and logs here")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="pseudomri-crash-"))
    is_terminal = sys.stderr.isatty()

    def tell(text: str) -> None:
        print(f"\r{text:60}" if is_terminal else text, end="" if is_terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    with contextlib.ExitStack() as servers:
        url = ""
        if options.postgresql:
            url = servers.enter_context(start_postgresql()).new_database()
        outcome = run(options.kills, options.seed, folder, tell, database_url=url)
    print(json.dumps(outcome.to_json(), indent=2) if options.json else as_text(outcome))
    print(f"data and logs: {folder}", file=sys.stderr)
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
