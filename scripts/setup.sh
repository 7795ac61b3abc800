#!/bin/sh
# Bring everything that Pixorly needs into .venv and a cache folder: no root, nothing installed into the system.
# A second run sees that nothing has changed, and does nothing. PIXORLY_PYTHON names another python3 to use.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
CHECKOUT=$(pwd)
STAMP=.venv/pixorly-setup

say() { printf '  %-10s %s\n' "$1" "$2"; }

fail() {
    printf '\nThe set-up cannot go on: %s\n' "$1" >&2
    shift
    for way in "$@"; do printf '  - %s\n' "$way" >&2; done
    exit 1
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

choose_python() {
    for candidate in ${PIXORLY_PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 to 3.13 was found" \
        "Debian 12, Ubuntu 24.04 and newer: apt-get install python3" \
        "Fedora: dnf install python3.13 / Homebrew: brew install python@3.13" \
        "or name one: PIXORLY_PYTHON=/path/to/python3 make setup"
}

# What decides whether there is anything to do: what is to be installed, how, where, and with which Python.
inputs() {
    cat scripts/setup.sh scripts/uv.txt requirements.lock libs/*/pyproject.toml services/*/pyproject.toml
    printf '%s %s\n' "$CHECKOUT" "${PIXORLY_PYTHON:-}"
}

# Print where a pip can be imported from: the venv needs one only for a moment, to install uv.
# Python brings one, unless the distribution keeps it in a package of its own; then that package is unpacked, not installed.
find_pip() {
    for wheel in $("$PYTHON" -c 'import ensurepip, pathlib; print(pathlib.Path(ensurepip.__file__).parent / "_bundled")' 2>/dev/null)/pip-*.whl \
        /usr/share/python-wheels/pip-*.whl "$CACHE"/pip-package/usr/share/python-wheels/pip-*.whl; do
        if [ -f "$wheel" ]; then
            echo "$wheel"
            return
        fi
    done
    unpack_pip_package && echo "$CACHE"/pip-package/usr/share/python-wheels/pip-*.whl
}

unpack_pip_package() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    work=$(mktemp -d "$CACHE/pip.XXXXXX")
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs"
    set -- -oDir::State::Lists="$work/lists" -oDir::Cache="$work" -oDebug::NoLocking=1 -oAPT::Sandbox::User= -q
    apt-get "$@" update >/dev/null 2>&1 || true
    if (cd "$work/debs" && apt-get "$@" download python3-pip-whl >/dev/null 2>&1); then
        dpkg-deb -x "$work"/debs/*.deb "$work/unpacked"
        mv "$work/unpacked" "$CACHE/pip-package"
    fi
    rm -rf "$work"
    [ -d "$CACHE/pip-package" ]
}

make_venv() {
    if [ -x .venv/bin/python ] && fits .venv/bin/python; then return; fi
    rm -rf .venv
    "$PYTHON" -m venv --without-pip .venv || fail "a virtual environment could not be made with $PYTHON" \
        "Debian, Ubuntu: apt-get install python3-venv" "or use another Python: PIXORLY_PYTHON=/path/to/python3 make setup"
}

install_uv() {
    wanted=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' scripts/uv.txt)
    if [ "$(.venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" = "$wanted" ]; then return; fi
    set -- install --quiet --no-deps --require-hashes -r scripts/uv.txt
    if pip=$(find_pip); then
        PYTHONPATH=$pip .venv/bin/python -m pip "$@"
    elif "$PYTHON" -m pip --version >/dev/null 2>&1; then
        "$PYTHON" -m pip --python .venv/bin/python "$@"
    else
        fail "no pip was found to install uv with" \
            "Debian, Ubuntu: apt-get install python3-venv" "Fedora: dnf install python3-pip" \
            "or put uv into .venv/bin yourself"
    fi || fail "uv could not be installed; is the package index within reach?"
}

install_packages() {
    .venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
    set --
    for project in libs/*/pyproject.toml services/*/pyproject.toml; do
        set -- "$@" -e "./${project%/pyproject.toml}"
    done
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps "$@"
}

NOW=$(inputs | cksum)
if [ -x .venv/bin/pixorly ] && [ "$(cat $STAMP 2>/dev/null)" = "$NOW" ]; then exit 0; fi

echo "Setting up Pixorly (the first time takes half a minute; nothing is installed into the system):"
PYTHON=$(choose_python) || exit 1
CACHE=$(PYTHONPATH=libs/stack "$PYTHON" -m pixorly_stack.cache)
mkdir -p "$CACHE"
export UV_CACHE_DIR="$CACHE/uv" PIP_CACHE_DIR="$CACHE/pip" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 UV_NO_PROGRESS=1

PYTHONPATH=libs/stack "$PYTHON" -m pixorly_stack.rabbitmq_packages &
RABBITMQ=$!
trap 'wait' EXIT

rm -f "$STAMP"
make_venv
say python "$(.venv/bin/python -c 'import platform; print(platform.python_version())') in .venv, from $PYTHON"
install_uv
say uv "$(.venv/bin/uv --version | cut -d' ' -f2)"
install_packages
say packages "$(grep -c '^[a-z].*==' requirements.lock) in the lock, PostgreSQL and SeaweedFS among them"

# Without RabbitMQ's packages much works all the same; the message said what to do.
wait $RABBITMQ || true
trap - EXIT
printf '%s\n' "$NOW" >"$STAMP"
echo "Ready."
