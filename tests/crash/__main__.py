"""The long run: `python -m tests.crash --rounds N --seed S [--minutes M] [--home DIR]` (`make soak`).

Each site gets a systematic pass or a hundred random rounds, then every check on all it holds; then comes a fresh one. Prints a table;
`--write` appends its line to docs/reliability.md. Exit status 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from . import check
from .ledger import Ledger
from .rounds import KINDS, Tally, play
from .senders import Answer
from .site import ROOT, bench
from .sweep import sweep

PER_SITE = 100  # rounds until everything is checked and a fresh site begins
STOP = 20.0  # seconds PostgreSQL is stopped


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="end earlier, after so long")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--home", type=Path, help="folder on the disk to use")
    parser.add_argument("--write", action="store_true", help="append the figures to docs/reliability.md")
    options = parser.parse_args()
    choice = random.Random(options.seed)
    began = time.monotonic()
    tally, answers, calls, objects, sites = Tally(), Counter[Answer](), 0, 0, 0

    def over() -> bool:
        return tally.rounds.total() >= options.rounds or time.monotonic() - began > options.minutes * 60

    print(f"seed {options.seed}", flush=True)
    with bench(options.home) as make:
        while not over() and not tally.wrong:
            sites += 1
            with make(nameless=sites % 3 != 0) as site:
                ledger = Ledger()
                if sites == 1:
                    swept = sweep(site, ledger, choice)
                    calls = sum(swept.calls.values())
                    tally.wrong += swept.wrong
                order: list[str] = []
                for _ in range(PER_SITE):
                    if over() or tally.wrong:
                        break
                    order = order or choice.sample(list(KINDS), len(KINDS))
                    kind = order.pop()
                    play(site, ledger, choice, kind, tally, stop=STOP)
                    print(f"{tally.rounds.total()} {kind}", flush=True)
                tally.wrong += check.everything(site, ledger, patient=True)
                if tally.wrong:
                    print(site.logs(), site.server.log()[-3000:])
                answers += ledger.answers
                objects += len(ledger.acknowledged)
    for kind, number in sorted(tally.rounds.items()):
        print(f"{number:6} {kind}")
    lost = sum(one.startswith("LOST") or ": LOST" in one for one in tally.wrong)
    line = (
        f"| {datetime.now(UTC):%Y-%m-%d} | {options.seed} | {(time.monotonic() - began) / 60:.0f} | {tally.rounds.total()} | {calls} |"
        f" {sum(answers.values())} | {objects} | {tally.again} | {lost} | {len(tally.wrong) - lost} |"
    )
    print(
        "| date | seed | minutes | rounds | calls swept | sent | acknowledged | sent again | lost | otherwise wrong |"
    )
    print(line)
    print("\n".join(tally.wrong))
    if options.write:
        page = ROOT / "docs" / "reliability.md"
        page.write_text(page.read_text().rstrip("\n") + "\n" + line + "\n")
    sys.exit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()
