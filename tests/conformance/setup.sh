#!/usr/bin/env bash
# Sets the Autobahn testsuite up in .cache/autobahn; nothing is installed system-wide.
#
# The suite needs Python 2.7. One that is there is taken; without it, or with PYTHON2=debian, the
# packages of Debian 11 (bullseye, the last with Python 2.7) are unpacked beside the system, fetched
# from the mirror that this machine's apt uses. Everything else comes from pip, at fixed versions.
set -euo pipefail
. "$(dirname "$0")/../../scripts/common.sh"
. "$ROOT/scripts/beside.sh"

home=$CACHE/autobahn
stamp=$home/.stamp
# What decides the result.
wanted=$(cat "${BASH_SOURCE[0]}" "$ROOT/scripts/beside.sh" | sha256sum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0
say "conformance: setting up the Autobahn testsuite in .cache/autobahn"
rm -rf "$home"
mkdir -p "$home"
log=$home/setup.log
quietly() { "$@" >>"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    fail "failed: $* (all of it in $log)"
}; }

python2_here() {
    local candidate
    [ "${PYTHON2:-}" != debian ] || return 1
    for candidate in "${PYTHON2:-}" python2.7 "$HOME"/.pyenv/versions/2.7.*/bin/python2.7; do
        [ -n "$candidate" ] || continue
        candidate=$(command -v "$candidate") || continue
        "$candidate" -c 'import ssl, ctypes, zlib' 2>/dev/null && printf '%s\n' "$candidate" && return 0
    done
    return 1
}

# Unpacks bullseye's Python 2.7 into $home/root, with lists and archives of its own.
python2_from_debian() {
    local root=$home/root library
    beside_init "$home/apt" bullseye
    beside_unpack "$root" python2.7 python2.7-minimal libpython2.7 libpython2.7-minimal \
        libpython2.7-stdlib libpython2.7-dev python2.7-dev libssl1.1 libffi7
    library=$root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)
    printf '%s\n' "$library" >"$home/library-path"
    LD_LIBRARY_PATH=$library "$root/usr/bin/python2.7" -c 'import ssl, ctypes, zlib' ||
        fail "the unpacked Python 2.7 does not run"
}

if python2=$(python2_here); then
    say "conformance: with $("$python2" -V 2>&1)"
else
    python2_from_debian
    python2=$home/root/usr/bin/python2.7
    LD_LIBRARY_PATH=$(cat "$home/library-path")
    export LD_LIBRARY_PATH
    say "conformance: with Debian 11's $("$python2" -V 2>&1)"
fi

# The last virtualenv that makes environments for 2.7; it brings a pip for it.
quietly env -u LD_LIBRARY_PATH python3 -m venv "$home/tool"
quietly env -u LD_LIBRARY_PATH "$home/tool/bin/python" -m pip install --disable-pip-version-check virtualenv==20.21.1 'setuptools<80'
quietly "$home/tool/bin/python" -m virtualenv -p "$python2" "$home/venv"
pip() { quietly "$home/venv/bin/python" -m pip install --disable-pip-version-check --no-python-version-warning "$@"; }
# In this order: incremental before Twisted, whose own set-up would fetch one that is too new.
pip --no-build-isolation setuptools==44.0.0 wheel==0.36.2 incremental==16.10.1 typing==3.10.0.0
pip --no-build-isolation Twisted==19.10.0 zope.interface==4.6.0 six==1.16.0 txaio==2.1.0
pip --no-build-isolation autobahn==0.10.9 jinja2==2.11.3 markupsafe==1.1.1 Werkzeug==1.0.1 klein==17.10.0 unittest2==1.1.0
# The suite imports OpenSSL even for ws://.
pip cryptography==3.3.2 pyOpenSSL==19.1.0 service_identity==18.1.0
# Optional: a faster mask and UTF-8 check for the suite itself.
"$home/venv/bin/python" -m pip install --disable-pip-version-check wsaccel==0.6.6 >>"$log" 2>&1 ||
    say "conformance: without wsaccel, slower"
pip --no-build-isolation --no-deps autobahntestsuite==25.10.1
quietly "$home/venv/bin/python" -c 'import autobahntestsuite.fuzzing'
printf '%s\n' "$wanted" >"$stamp"
