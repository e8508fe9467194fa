#!/usr/bin/env bash
# Installs the Debian packages that judge our results (DCMTK, dicom3tools, Orthanc, a browser, a registry, bubblewrap, a head CT), where it may.
# usage: install_programs.sh [--demo]   --demo: only what the demo uses
set -euo pipefail

packages=(dcmtk dicom3tools orthanc orthanc-dicomweb gcc libc6-dev curl bubblewrap invesalius-examples chromium fonts-dejavu-core shellcheck docker-registry openssl)
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

# Only their programs are wanted: on some machines the packages start servers of their own, which would listen on every address.
for server in orthanc docker-registry; do
  if [[ " ${missing[*]} " == *" $server "* ]]; then
    if [ -d /run/systemd/system ]; then systemctl disable --now "$server" || true; else service "$server" stop || true; fi
  fi
done > /dev/null 2>&1
