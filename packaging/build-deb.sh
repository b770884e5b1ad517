#!/bin/sh
# Builds dynstack-probe_VERSION_all.deb in the folder given (default: dist/).
# The same sources give the same bytes: times come from SOURCE_DATE_EPOCH, by default
# that of the last commit.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
source=$(dirname "$here")
output=${1:-$source/dist}
name=dynstack-probe

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$source/dynstack_probe/__init__.py")
logged=$(sed -n "1s/^$name (\(.*\)) .*/\1/p" "$here/changelog")
if [ "$version" != "$logged" ]; then
	echo "packaging/changelog begins with $logged, dynstack_probe is $version:" \
		"please add an entry" >&2
	exit 1
fi
maintainer=$(sed -n 's/^ -- \(.*>\)  .*/\1/p' "$here/changelog" | head -n 1)
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
	SOURCE_DATE_EPOCH=$(git -C "$source" log -1 --format=%ct 2>/dev/null) ||
		SOURCE_DATE_EPOCH=$(date --date="$(sed -n 's/^ -- .*>  //p' "$here/changelog" |
			head -n 1)" +%s)
fi
export SOURCE_DATE_EPOCH

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root" # dpkg-deb takes it over for the package's own /

put() { # MODE FILE DESTINATION
	install -D -m "$1" "$2" "$root/$3"
}
put_gz() { # FILE DESTINATION
	put 644 "$1" "$2"
	gzip --best --no-name "$root/$2"
}

# The package, with the BPF sources where loader.probes_dir() looks first.
dist=usr/lib/python3/dist-packages
mkdir -p "$root/$dist"
cp -R "$source/dynstack_probe" "$root/$dist/dynstack_probe"
cp -R "$source/probes" "$root/$dist/dynstack_probe/probes"
find "$root/$dist" -name __pycache__ -prune -exec rm -rf {} +

put 755 "$here/$name" "usr/bin/$name"
put 644 "$here/$name.service" "usr/lib/systemd/system/$name.service"
put 644 "$here/config.toml" "etc/$name/config.toml"
put 644 "$here/$name.default" "etc/default/$name"
put_gz "$here/$name.1" "usr/share/man/man1/$name.1"
put 644 "$here/README.md" "usr/share/doc/$name/README.md"
put 644 "$here/copyright" "usr/share/doc/$name/copyright"
put_gz "$here/changelog" "usr/share/doc/$name/changelog"

# Completions ask the command itself, so these never grow old.
for shell in bash zsh fish; do
	/usr/bin/python3 "$here/completion.py" "$shell" >"$root/completion.$shell"
done
put 644 "$root/completion.bash" "usr/share/bash-completion/completions/$name"
put 644 "$root/completion.zsh" "usr/share/zsh/vendor-completions/_$name"
put 644 "$root/completion.fish" "usr/share/fish/vendor_completions.d/$name.fish"
rm "$root"/completion.*

find "$root" -type d -exec chmod 755 {} +
find "$root/$dist" -type f -exec chmod 644 {} +

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do
	put 755 "$here/scripts/$script" "DEBIAN/$script"
done
(cd "$root" && find etc -type f | LC_ALL=C sort | sed 's,^,/,') >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) \
	>"$root/DEBIAN/md5sums"
size=$(cd "$root" && find usr etc -type f -printf '%s\n' |
	awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
sed -e "s/@VERSION@/$version/" -e "s/@MAINTAINER@/$maintainer/" -e "s/@SIZE@/$size/" \
	"$here/control" >"$root/DEBIAN/control"

export DPKG_DEB_THREADS_MAX=1 # more would cut the archive by the number of cores
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$output"
deb=$output/${name}_${version}_all.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
echo "$deb"
