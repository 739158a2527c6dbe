#!/usr/bin/env bash
# Makes the Debian 12 root that tests and the demo use, once, and prints its path.
#
# usage: tools/rootfs.sh [node]      (node: a root of its own, with Node.js and npm)
#
# It lies outside the tree ($SKEP_CACHE, default /var/cache/skep). It appears by a rename, so that a
# root that exists is complete. A change of the package list makes a new root.
set -euo pipefail

readonly cache=${SKEP_CACHE:-/var/cache/skep}
readonly variant=${1:-}
readonly packages=bash,coreutils,findutils,grep,sed,gawk,mawk,tar,gzip,xz-utils,bzip2,python3,\
python3-venv,sqlite3,libsqlite3-0,gcc,g++,libc6-dev,make,git,perl,procps,busybox,dash,diffutils,\
util-linux,ca-certificates,less,file,time,netbase
case $variant in
  '') more=() ;;
  node) more=(nodejs npm) ;;
  *)
    printf 'rootfs.sh: no such variant: %s\n' "$variant" >&2
    exit 2
    ;;
esac
readonly suite=bookworm
readonly mirror=${SKEP_DEBIAN_MIRROR:-http://deb.debian.org/debian}

key=$(printf '%s' "$suite $packages${more[*]:+ ${more[*]}}" | sha256sum | cut -c1-8)
readonly name=rootfs-$suite${variant:+-$variant}
readonly root=$cache/$name-$key
if [[ -d $root ]]; then
  printf '%s\n' "$root"
  exit 0
fi
if [[ $(id -u) != 0 ]]; then
  exec sudo SKEP_CACHE="$cache" SKEP_DEBIAN_MIRROR="$mirror" "$0" "$@"
fi

mkdir -p "$cache"
made=$(mktemp -d "$cache/.making.XXXXXX")
trap 'rm -rf "$made"' EXIT
chmod 755 "$made"
if [[ -z $variant ]]; then
  debootstrap --variant=minbase --include="$packages" "$suite" "$made" "$mirror" >&2
else
  # By apt: debootstrap does not understand the virtual packages that npm depends on.
  base=$("$0")
  cp -a "$base/." "$made"
  cp /etc/resolv.conf "$made/etc/"
  chroot "$made" apt-get update >&2
  DEBIAN_FRONTEND=noninteractive chroot "$made" \
    apt-get install -y --no-install-recommends "${more[@]}" >&2
fi
rm -rf "$made"/var/cache/apt/archives/*.deb "$made"/var/lib/apt/lists/*
# Another process may have been faster: its root is as good as ours.
mv -T "$made" "$root" 2>/dev/null || [[ -d $root ]]
ln -sfn "$root" "$cache/.link.$$"
mv -T "$cache/.link.$$" "$cache/$name"
printf '%s\n' "$root"
