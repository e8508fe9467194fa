"""How many associations are open over all workers, in memory that they share, and whether one more may be.

Every worker has a count of its own and writes no other, so that none needs a lock that a killed or stopped one would hold;
the parent wipes the count of one that has ended. Not here: how an association is refused (association).
"""

from __future__ import annotations

import mmap
import os
import threading

WORKERS = 1024  # with those that end with their last association
BYTES = 4  # of a count


class Counts:
    """The counts of all workers.

    Parameters
    ----------
    descriptor : int, optional
        Of the memory, where it was made by the same process before an exec.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("insitu-associations") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, WORKERS * BYTES)
        self._counts = memoryview(mmap.mmap(self.descriptor, WORKERS * BYTES)).cast("I")

    def total(self) -> int:
        """Associations that are open over all workers."""
        return sum(self._counts)

    def wipe(self, place: int) -> None:
        """Forget what a worker that has ended had open."""
        self._counts[place] = 0

    def add(self, place: int, number: int) -> None:
        """Count for the worker of that place; by that worker only, from one thread at a time."""
        self._counts[place] += number


class Limit:
    """The limit as one worker sees it.

    Parameters
    ----------
    counts : Counts
    place : int
        This worker's.
    most : int
        Associations over all workers.
    """

    def __init__(self, counts: Counts, place: int, most: int) -> None:
        self._counts = counts
        self._place = place
        self._most = most
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Count one more association, unless there are too many.

        Counted before it is looked: two workers at a time may both find the last place taken, but never both take it.
        """
        with self._lock:
            self._counts.add(self._place, 1)
            if self._counts.total() <= self._most:
                return True
            self._counts.add(self._place, -1)
            return False

    def give_back(self) -> None:
        """Count one less."""
        with self._lock:
            self._counts.add(self._place, -1)
