"""Fills a folder with files and stays; what is told by an error is no reason to stop. Parameters: {"folder": ...}."""

import itertools
import json
import os
import time

with open(os.environ["INSITU_PARAMETERS"]) as stream:
    folder = json.load(stream)["folder"]
for number in itertools.count():
    try:
        with open(os.path.join(folder, f"{number}.bin"), "wb") as stream:
            stream.write(os.urandom(1 << 20))
    except OSError as error:
        print(error, flush=True)
        time.sleep(1)
    time.sleep(0.1)
