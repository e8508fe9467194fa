#!/usr/bin/env bash
# Installs the Debian packages that judge our results (DCMTK, dicom3tools, Orthanc, a browser, bubblewrap, a head CT), where it may.
# usage: install_programs.sh [--demo]   --demo: only what the demo uses
set -euo pipefail

packages=(dcmtk dicom3tools orthanc orthanc-dicomweb gcc libc6-dev curl bubblewrap invesalius-examples chromium fonts-dejavu-core shellcheck)
[ "${1:-}" = --demo ] && packages=(bubblewrap invesalius-examples dicom3tools)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)" = installed ] || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
  echo "Not installed, and only root on Debian could: ${missing[*]}. What needs them is skipped and says so."
  exit 0
fi
echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; } > "$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "These packages could not be installed: ${missing[*]}. What needs them is skipped and says so." >&2
fi
rm -f "$log"

# Only its program is wanted: on some machines the package starts a server of its own, which would listen on every address.
if [[ " ${missing[*]} " == *" orthanc "* ]]; then
  if [ -d /run/systemd/system ]; then systemctl disable --now orthanc || true; else service orthanc stop || true; fi
fi > /dev/null 2>&1
