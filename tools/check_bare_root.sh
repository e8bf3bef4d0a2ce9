#!/bin/sh
# The promise for a fresh machine, kept in a bare Debian of its own: with no Python, and with a Python that cannot make
# environments, `make` says in one line what to install and stops within a second; with git, make and python3-venv,
# `make demo` works, for a user who is not root, from a folder with a space in its name.
# Needs root, debootstrap and the network; says so and leaves with success where these are missing. KEEP=1 leaves the
# machine there to be looked at.
set -eu
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null 2>&1; then
    echo "check_bare_root: skipped: needs root and debootstrap"
    exit 0
fi

root=$(mktemp -d /var/tmp/elanus-bare-XXXXXX)
inside() { # run as the user "tester" in the checkout
    chroot --userspec=1000:1000 "$root" /usr/bin/env -i HOME=/home/tester PATH=/usr/local/bin:/usr/bin:/bin \
        PIP_FIND_LINKS="${PIP_FIND_LINKS:-}" PIP_CERT="${PIP_CERT:-}" PIP_INDEX_URL="${PIP_INDEX_URL:-}" LC_ALL=C.UTF-8 \
        sh -c "cd '/home/tester/my elanus' && $1"
}
chmod 755 "$root"
finish() {
    [ -z "${KEEP:-}" ] || { echo "check_bare_root: kept $root"; return; }
    umount "$root/proc" 2>/dev/null || true
    rm -rf "$root"
}
trap finish EXIT
fail() { echo "check_bare_root: $*" >&2; exit 1; }

. /etc/os-release
mirror=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }
    $1 == "URIs:" { print $2; exit }' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true)
echo "check_bare_root: debootstrap ${VERSION_CODENAME} into $root"
debootstrap --variant=minbase --include=make,ca-certificates "$VERSION_CODENAME" "$root" \
    "${mirror:-http://deb.debian.org/debian}" >"$root.log" 2>&1 || { tail -n 20 "$root.log"; fail "debootstrap failed"; }
rm -f "$root.log"

for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
    [ ! -e "$file" ] || cp -L "$file" "$root$file"
done
[ ! -d /etc/ssl/certs ] || { mkdir -p "$root/etc/ssl/certs"; cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true; }
cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
if [ -d "${PIP_FIND_LINKS:-}" ]; then
    mkdir -p "$root$PIP_FIND_LINKS"
    cp -r "$PIP_FIND_LINKS/." "$root$PIP_FIND_LINKS/"
fi
mount -t proc proc "$root/proc" 2>/dev/null || echo "check_bare_root: no /proc inside"
chroot "$root" useradd --uid 1000 --user-group --create-home tester
mkdir -p "$root/home/tester/my elanus"
git ls-files -z | tar --null --files-from=- -cf - | tar -xf - -C "$root/home/tester/my elanus"
chroot "$root" chown -R tester:tester /home/tester

one_line() { # what is missing, words the line must have
    started=$(date +%s%N)
    said=$(inside "make demo" 2>&1) && fail "make demo succeeded with $1"
    took_ms=$((($(date +%s%N) - started) / 1000000))
    said=$(printf '%s\n' "$said" | grep -v '^make: \*\*\*' || true)
    [ "$(printf '%s\n' "$said" | wc -l)" = 1 ] || fail "with $1, make said more than one line: $said"
    case "$said" in *"$2"*) ;; *) fail "with $1, make said: $said" ;; esac
    [ "$took_ms" -lt 1000 ] || fail "with $1, make took $took_ms ms"
    echo "check_bare_root: $1: $took_ms ms: $said"
}

export DEBIAN_FRONTEND=noninteractive
inside "make help" >/dev/null || fail "make help needs more than make"
one_line "no Python" "python3-venv"
chroot "$root" apt-get update -qq
chroot "$root" apt-get install -y -qq --no-install-recommends python3 >/dev/null
one_line "a Python without venv" "-venv"
chroot "$root" apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
shown=$(inside "make demo" 2>&1) || { printf '%s\n' "$shown" | tail -n 30; fail "make demo failed"; }
case "$shown" in *"How to go on"*) ;; *) printf '%s\n' "$shown" | tail -n 30; fail "make demo ended early" ;; esac
echo "check_bare_root: make demo works for a user who is not root"
