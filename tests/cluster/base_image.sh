#!/usr/bin/env bash
# base_image.sh base|go NAME: a Debian 12 with Python 3.11 (base), or that with this machine's Go (go), as an image in buildah's store,
# for tests on machines that have no registry of images. Its name carries this file's content: change it, and it is made anew.
# Files keep their times: the interpreter's bytecode is bound to them.
set -euo pipefail
kind=$1 name=$2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/insitu-tests
folder=$cache/base-$(sha256sum "$0" | cut -c 1-12)

if [ ! -e "$folder/.done" ]; then
  rm -rf "$cache"/base-*
  mkdir -p "$folder"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/rootfs"
  cd "$folder/rootfs"
  rm -rf var/cache/apt/* var/cache/debconf/* var/lib/apt/lists/* var/log/* \
    usr/share/doc usr/share/man usr/share/locale usr/share/info usr/share/zoneinfo/right usr/share/zoneinfo/posix
  touch "$folder/.done"
fi

container=$(buildah from scratch)
trap 'buildah rm "$container" > /dev/null' EXIT
buildah add --quiet "$container" "$folder/rootfs" / > /dev/null
[ "$kind" = go ] && buildah add --quiet "$container" "$(go env GOROOT)" /usr/local/go > /dev/null
buildah config --cmd python3 --env LANG=C.UTF-8 "$container"
buildah commit --quiet "$container" "$name" > /dev/null
