#!/bin/sh
# Loads the images of this bundle into a registry: ./load --help. Here only a Python is looked for; the rest is load.py beside this file.
for python in python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
  if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2> /dev/null; then
    exec "$python" -B "$(dirname "$0")/load.py" "$@"
  fi
done
echo "load: needs Python 3.9 or newer, which is not on this machine. Run it on another one, or see docs/offline.md for skopeo." >&2
exit 1
