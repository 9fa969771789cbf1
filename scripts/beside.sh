# shellcheck shell=bash
# Packages of another Debian release, unpacked beside the system; sourced after common.sh.
# They come from the mirror that this machine's apt uses; the system's apt and dpkg see none of it.

# beside_init FOLDER SUITE: package lists of a release, in FOLDER.
beside_init() {
    local folder=$1 suite=$2 site keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    have apt-get || fail "needs apt-get, to unpack packages of Debian $suite beside the system"
    [ -f $keyring ] || fail "$keyring is missing; install debian-archive-keyring"
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | grep '/debian/*$' | head -n 1)
    [ -n "$site" ] || fail "apt knows no Debian mirror here"
    mkdir -p "$folder"/{sources,lists/partial,cache/archives/partial,packages}
    : >"$folder/status"
    printf '%s [signed-by=%s] %s %s main\n' deb $keyring "$site" "$suite" deb-src $keyring "$site" "$suite" \
        >"$folder/sources/$suite.list"
    cat >"$folder/apt.conf" <<CONF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$folder/sources";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$folder/lists";
Dir::State::status "$folder/status";
Dir::Cache "$folder/cache";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Sandbox::User "root";
CONF
    BESIDE=$folder
    beside_apt update -qq || fail "cannot read the package lists of Debian $suite"
}

beside_apt() { apt-get -c "$BESIDE/apt.conf" "$@"; }

# beside_unpack ROOT PACKAGE...: just these packages.
beside_unpack() {
    local root=$1 package
    shift
    (
        cd "$BESIDE/packages" || exit 1
        rm -f ./*.deb
        beside_apt download -qq "$@" || exit 1
        for package in *.deb; do dpkg -x "$package" "$root" || exit 1; done
    ) || fail "cannot unpack: $*"
}

# beside_unpack_all ROOT PACKAGE...: these and all they depend on.
beside_unpack_all() {
    local root=$1 package
    shift
    beside_apt install -qq -y --download-only --no-install-recommends "$@" >/dev/null || fail "cannot fetch: $*"
    for package in "$BESIDE"/cache/archives/*.deb; do dpkg -x "$package" "$root" || fail "cannot unpack $package"; done
}
