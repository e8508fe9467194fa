"""Ends with status 1 after saying why."""

import sys

print("looking for the brain")
sys.exit("there is no brain in this image")
