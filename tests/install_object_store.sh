#!/usr/bin/env bash
# Builds the S3 server that the tests keep objects on (versitygw), once, into the tests' folder of the user's cache.
set -euo pipefail

version=v1.8.0 # tests/object_store.py names it too
folder=${XDG_CACHE_HOME:-$HOME/.cache}/insitu-tests/versitygw-$version
[ -x "$folder/versitygw" ] && exit 0
if ! command -v go > /dev/null; then
  echo "Not built, as there is no Go: the S3 server versitygw. What needs it is skipped and says so."
  exit 0
fi
echo "Building the S3 server of the tests (some minutes, once)"
mkdir -p "$folder"
made=$(mktemp -d)
trap 'chmod -R u+w "$made"; rm -rf "$made"' EXIT
if ! GOBIN=$made GOFLAGS=-mod=mod CGO_ENABLED=0 \
  go install -trimpath -ldflags='-s -w' "github.com/versity/versitygw/cmd/versitygw@$version" > "$made/log" 2>&1; then
  tail -n 20 "$made/log" >&2
  echo "The S3 server could not be built. What needs it is skipped and says so." >&2
  exit 0
fi
mv "$made/versitygw" "$folder/versitygw"
