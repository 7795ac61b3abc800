#!/bin/sh
# Print the folder that holds Prometheus' programs (promtool, prometheus): the system's, or Debian's package, unpacked into the
# cache folder without root and without being installed.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
if found=$(command -v promtool); then
    dirname "$found"
    exit 0
fi
CACHE=$(PYTHONPATH=libs/stack .venv/bin/python -m pixorly_stack.cache)
if [ ! -x "$CACHE/prometheus/usr/bin/promtool" ]; then
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
        echo "promtool is not here, and there is no apt-get to fetch it with: install Prometheus" >&2
        exit 1
    }
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/prometheus.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs"
    set -- -oDir::State::Lists="$work/lists" -oDir::Cache="$work" -oDebug::NoLocking=1 -oAPT::Sandbox::User= -q
    apt-get "$@" update >/dev/null 2>&1 || true
    (cd "$work/debs" && apt-get "$@" download prometheus >/dev/null)
    dpkg-deb -x "$work"/debs/*.deb "$work/unpacked"
    rm -rf "$CACHE/prometheus"
    mv "$work/unpacked" "$CACHE/prometheus"
fi
echo "$CACHE/prometheus/usr/bin"
