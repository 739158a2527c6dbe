#!/usr/bin/env bash
# Makes the Debian 12 root that tests and the demo use, once, and prints its path.
#
# It lies outside the tree ($SKEP_CACHE, default /var/cache/skep). It appears by a rename, so that a
# root that exists is complete. A change of the package list makes a new root.
set -euo pipefail

readonly cache=${SKEP_CACHE:-/var/cache/skep}
readonly packages=bash,coreutils,findutils,grep,sed,gawk,mawk,tar,gzip,xz-utils,bzip2,python3,\
python3-venv,sqlite3,libsqlite3-0,gcc,g++,libc6-dev,make,git,perl,procps,busybox,dash,diffutils,\
util-linux,ca-certificates,less,file,time,netbase
readonly suite=bookworm
readonly mirror=${SKEP_DEBIAN_MIRROR:-http://deb.debian.org/debian}

key=$(printf '%s' "$suite $packages" | sha256sum | cut -c1-8)
readonly root=$cache/rootfs-$suite-$key
if [[ -d $root ]]; then
  printf '%s\n' "$root"
  exit 0
fi
if [[ $(id -u) != 0 ]]; then
  exec sudo SKEP_CACHE="$cache" SKEP_DEBIAN_MIRROR="$mirror" "$0"
fi

mkdir -p "$cache"
made=$(mktemp -d "$cache/.making.XXXXXX")
trap 'rm -rf "$made"' EXIT
chmod 755 "$made"
debootstrap --variant=minbase --include="$packages" "$suite" "$made" "$mirror" >&2
rm -rf "$made"/var/cache/apt/archives/*.deb "$made"/var/lib/apt/lists/*
# Another process may have been faster: its root is as good as ours.
mv -T "$made" "$root" 2>/dev/null || [[ -d $root ]]
ln -sfn "$root" "$cache/.link.$$"
mv -T "$cache/.link.$$" "$cache/rootfs-$suite"
printf '%s\n' "$root"
