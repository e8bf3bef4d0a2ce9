#!/bin/sh
# Make .venv with the first suitable Python and install Elanus with the extras named by $1 into it; `.venv/.ready-$1` says
# that this is done. Says in one line what to install when something is missing. Run by `make`; $PYTHON overrides the
# choice of the Python.
set -eu
cd "$(dirname "$0")/.."

# Print the interpreter's own "major.minor" if it is one we support, and fail otherwise.
version_of() {
    "$1" -c 'import sys; v = sys.version_info[:2]; print("%d.%d" % v); sys.exit(not (3, 11) <= v <= (3, 14))' 2>/dev/null
}

# The one line that installs what is missing. $1: the version of a Python that lacks venv, or nothing.
install_line() {
    if command -v apt-get >/dev/null 2>&1; then
        if [ -n "$1" ]; then as_root "apt-get install -y python$1-venv"
        else as_root "apt-get update && apt-get install -y python3-venv"; fi
    elif command -v dnf >/dev/null 2>&1; then as_root "dnf install -y python3.12"
    elif command -v zypper >/dev/null 2>&1; then as_root "zypper install -y python312"
    elif command -v apk >/dev/null 2>&1; then as_root "apk add python3"
    elif command -v pacman >/dev/null 2>&1; then as_root "pacman -S --noconfirm python"
    elif command -v brew >/dev/null 2>&1; then echo "brew install python@3.13"
    else echo "(get Python 3.11 to 3.14 from https://www.python.org/downloads/)"
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then echo "$1"
    elif command -v sudo >/dev/null 2>&1; then echo "sudo sh -c '$1'"
    else echo "su -c '$1'"
    fi
}

without_venv=
chosen=
for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
    version=$(version_of "$candidate") || { [ "$candidate" = "${PYTHON:-}" ] && break; continue; }
    if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
        chosen=$candidate
        break
    fi
    without_venv=${without_venv:-$version}
    [ "$candidate" = "${PYTHON:-}" ] && break
done

if [ -z "$chosen" ]; then
    if [ -n "${PYTHON:-}" ] && [ -z "$without_venv" ]; then
        echo "PYTHON=$PYTHON is not a Python from 3.11 to 3.14; leave PYTHON out, or install one: $(install_line '')" >&2
    elif [ -n "$without_venv" ]; then
        echo "Python $without_venv cannot make virtual environments; install what is missing: $(install_line "$without_venv")" >&2
    else
        echo "Elanus needs Python 3.11 to 3.14; install it: $(install_line '')" >&2
    fi
    exit 1
fi

if ! version_of .venv/bin/python >/dev/null; then
    echo "Making .venv with Python $(version_of "$chosen")"
    rm -rf .venv
    "$chosen" -m venv .venv
fi
echo "Installing Elanus into .venv with what it needs for: $1 (once; a minute or two)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
.venv/bin/python -m compileall -q src/elanus
touch ".venv/.ready-$1"
