#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the Debian package and its source package in the folder given (default: dist/), and
# prints the name of the former. The same sources give the same bytes: times come from
# SOURCE_DATE_EPOCH, by default that of the last commit.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
source=$(dirname "$here")
output=${1:-$source/dist}
name=dynstack-probe

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$source/dynstack_probe/__init__.py")
logged=$(sed -n "1s/^$name (\(.*\)) .*/\1/p" "$here/debian/changelog")
if [ "$version" != "$logged" ]; then
	echo "packaging/debian/changelog begins with $logged, dynstack_probe is $version:" \
		"please add an entry" >&2
	exit 1
fi
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
	SOURCE_DATE_EPOCH=$(git -C "$source" log -1 --format=%ct 2>/dev/null) ||
		SOURCE_DATE_EPOCH=$(date --date="$(sed -n 's/^ -- .*>  //p' "$here/debian/changelog" |
			head -n 1)" +%s)
fi
export SOURCE_DATE_EPOCH
export DPKG_DEB_THREADS_MAX=1 # more would cut the archive by the number of cores
export PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH" # the build is for the system's Python, no other

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/$name-$version
mkdir "$tree"
tar -C "$source" --exclude=__pycache__ -c \
	dynstack_probe probes packaging pyproject.toml README.md CHANGELOG.md LICENSE |
	tar -C "$tree" --no-same-owner -x
mv "$tree/packaging/debian" "$tree/debian"

# Not checked: build-essential, whose compiler a package for all architectures does not need.
if ! (cd "$tree" && PYTHONDONTWRITEBYTECODE=1 dpkg-buildpackage --no-check-builddeps \
	--unsigned-source --unsigned-changes) >"$work/log" 2>&1; then
	cat "$work/log" >&2
	exit 1
fi
mkdir -p "$output"
cp "$work/${name}_$version"* "$output"
echo "$output/${name}_${version}_all.deb"
