"""The long run: `python -m tests.crash --rounds N --seed S [--minutes M] [--side K] [--home DIR]` (`make soak`).

K harnesses run side by side, as most of the time is waiting, each with a PostgreSQL of its own. The first site of each gets a systematic
pass, each site a hundred random rounds, then every check on all it holds; then comes a fresh one. Prints a table; `--write` appends its
line to docs/reliability.md. Exit status 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

from . import check, deletions
from .ledger import Ledger
from .rounds import KINDS, Tally, play
from .senders import Answer
from .site import ROOT, Site, bench
from .spawner import tie
from .sweep import Sweep, sweep

PER_SITE = 100  # rounds until everything is checked and a fresh site begins
# Systematic passes, each on the first site of one of the harnesses.
SWEEPS: dict[int, Callable[[Site, Ledger, random.Random], Sweep]] = {
    0: sweep,
    **{number: partial(deletions.sweep, levels=(level,)) for number, level in enumerate(deletions.LEVELS, 1)},
}
STOPS = (20.0, 3.0, 3.0, 3.0)  # seconds PostgreSQL is stopped, in turn


@dataclass
class Outcome:
    """What one harness did."""

    tally: Tally = field(default_factory=Tally)
    calls: int = 0
    answers: Counter[Answer] = field(default_factory=Counter)
    objects: int = 0


class Soak:
    """One of the harnesses that run side by side.

    Parameters
    ----------
    number : int
        Which of them, from 0.
    seed : int
        Of all of them.
    rounds : int
    deadline : float
        Monotonic time.
    home : Path or None
        Folder on the disk to use.
    """

    enough: Event  # something is wrong somewhere: nobody goes on

    def __init__(self, number: int, seed: int, rounds: int, deadline: float, home: Path | None) -> None:
        self._number, self._rounds, self._deadline, self._home = number, rounds, deadline, home
        self._choice = random.Random(f"{seed}/{number}")
        self._outcome = Outcome()
        self._order: list[str] = []

    @property
    def _over(self) -> bool:
        tally = self._outcome.tally
        done = tally.rounds.total() >= self._rounds or time.monotonic() > self._deadline
        return done or bool(tally.wrong) or self.enough.is_set()

    def run(self) -> Outcome:
        """Rounds on one site after the other, until it is over."""
        sites = 0
        try:
            with bench(self._home) as make:
                while not self._over:
                    sites += 1
                    with make(nameless=sites % 3 != 0) as site:
                        self._site(site, first=sites == 1)
        except Exception:  # noqa: BLE001  whatever it is: the figures so far are wanted, and it is not as it must be
            self._outcome.tally.wrong.append(traceback.format_exc())
        if self._outcome.tally.wrong:
            self.enough.set()
        return self._outcome

    def _site(self, site: Site, *, first: bool) -> None:
        ledger, outcome = Ledger(), self._outcome
        try:
            if first and self._number in SWEEPS:
                swept = SWEEPS[self._number](site, ledger, self._choice)
                outcome.calls = sum(swept.calls.values())
                outcome.tally.wrong += swept.wrong
            for _ in range(PER_SITE):
                if self._over:
                    break
                self._order = self._order or self._choice.sample(list(KINDS), len(KINDS))
                kind = self._order.pop()
                stop = STOPS[outcome.tally.rounds[kind] % len(STOPS)]
                play(site, ledger, self._choice, kind, outcome.tally, stop=stop)
                print(f"{self._number}: {outcome.tally.rounds.total()} {kind}", flush=True)
            outcome.tally.wrong += check.everything(site, ledger, patient=True)
        finally:
            if outcome.tally.wrong or sys.exc_info()[0]:
                print(site.logs(), site.server.autopsy(), flush=True)
            outcome.answers += ledger.answers
            outcome.objects += len(ledger.acknowledged)


def _prepare(enough: Event) -> None:
    tie()
    Soak.enough = enough


def _run(*of: object) -> Outcome:
    return Soak(*of).run()  # type: ignore[arg-type]


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="end earlier, after so long")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--side", type=int, default=4, help="harnesses side by side")
    parser.add_argument("--home", type=Path, help="folder on the disk to use")
    parser.add_argument("--write", action="store_true", help="append the figures to docs/reliability.md")
    options = parser.parse_args()
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    context = multiprocessing.get_context("fork")
    each = -(-options.rounds // options.side)
    with ProcessPoolExecutor(options.side, context, _prepare, (context.Event(),)) as pool:
        deadline = began + options.minutes * 60
        runs = [pool.submit(_run, n, options.seed, each, deadline, options.home) for n in range(options.side)]
        outcomes = [run.result() for run in runs]
    rounds: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    answers: Counter[Answer] = Counter()
    for outcome in outcomes:
        rounds += outcome.tally.rounds
        answers += outcome.answers
        for phase, spent in outcome.tally.seconds.items():
            seconds[phase] += spent
    wrong = [one for outcome in outcomes for one in outcome.tally.wrong]
    for kind, number in sorted(rounds.items()):
        print(f"{number:6} {kind}")
    print("; ".join(f"{phase} {spent:.0f} s" for phase, spent in seconds.items()))
    lost = sum(one.startswith("LOST") or ": LOST" in one for one in wrong)
    line = (
        f"| {datetime.now(UTC):%Y-%m-%d} | {options.seed} | {(time.monotonic() - began) / 60:.0f} | {rounds.total()} |"
        f" {sum(outcome.calls for outcome in outcomes)} | {sum(answers.values())} |"
        f" {sum(outcome.objects for outcome in outcomes)} | {sum(outcome.tally.again for outcome in outcomes)} |"
        f" {lost} | {len(wrong) - lost} |"
    )
    print(
        "| date | seed | minutes | rounds | calls swept | sent | acknowledged | sent again | lost | otherwise wrong |"
    )
    print(line)
    print("\n".join(wrong))
    if options.write:
        page = ROOT / "docs" / "reliability.md"
        page.write_text(page.read_text().rstrip("\n") + "\n" + line + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
