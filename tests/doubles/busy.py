"""Keeps two cores busy for an hour, as a training does."""

import multiprocessing
import time


def work():
    """Count."""
    end = time.monotonic() + 3600
    number = 0
    while time.monotonic() < end:
        number += 1


if __name__ == "__main__":
    print("training", flush=True)
    workers = [multiprocessing.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
