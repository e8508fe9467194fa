"""Fills the disk with many files, then stays."""

import itertools
import os
import time

for number in itertools.count():
    with open(os.path.join(os.environ["INSITU_OUTPUT"], f"{number}.bin"), "wb") as stream:
        stream.write(bytes(1 << 20))
    time.sleep(0.05)
