"""What was sent and what it was answered: the senders' own knowledge, against which the archive is judged."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

from .objects import Item, Key
from .senders import Answer


class Ledger:
    """Every object that was sent to one site. May be written by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: dict[Key, Item] = {}
        self.by_sop: dict[str, set[Key]] = defaultdict(set)
        self.acknowledged: set[Key] = set()
        self.aside: set[Key] = set()
        self.answers: Counter[Answer] = Counter()

    def will_send(self, items: list[Item]) -> None:
        """Note objects before their first byte goes out."""
        with self._lock:
            for item in items:
                self.sent[item.key] = item
                self.by_sop[item.sop].add(item.key)

    def report(self, item: Item, answer: Answer) -> None:
        """Note an answer, or that there was none."""
        with self._lock:
            self.answers[answer] += 1
            if answer is Answer.ACKNOWLEDGED:
                self.acknowledged.add(item.key)
            elif answer is Answer.ASIDE:
                self.aside.add(item.key)

    def settled(self, item: Item) -> bool:
        """Whether the sender may forget the object."""
        return item.key in self.acknowledged or item.key in self.aside

    def known(self) -> list[Item]:
        """Objects that were acknowledged, in the order in which they were sent."""
        return [item for key, item in self.sent.items() if key in self.acknowledged]
