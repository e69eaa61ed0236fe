#!/bin/sh
# Installs zinc for this user: fetches the archive of the newest release for this machine, checks its
# SHA-256, and puts the program into ~/.local/bin. Nothing runs with other rights than yours.
#
#   ZINC_VERSION   a release such as v0.1.0; default: the newest
#   ZINC_BIN       directory for the program; default: ~/.local/bin
#   ZINC_RELEASES  where releases are; the release that has this script writes its own place here

set -eu

releases=${ZINC_RELEASES:-@RELEASES@}
bin=${ZINC_BIN:-${HOME:?"set HOME or ZINC_BIN"}/.local/bin}

fail() {
    echo "error: $1" >&2
    [ $# -lt 2 ] || echo "hint: $2" >&2
    exit 1
}

# The target of this machine, as the archives are named.
machine() {
    case "$(uname -s) $(uname -m)" in
        "Linux x86_64" | "Linux amd64") echo x86_64-unknown-linux-gnu ;;
        "Linux aarch64" | "Linux arm64") echo aarch64-unknown-linux-gnu ;;
        "Darwin arm64") echo aarch64-apple-darwin ;;
        *) fail "there is no archive for $(uname -s) on $(uname -m)" \
            "build it: cargo install --path crates/zinc, in a clone" ;;
    esac
}

# fetch URL FILE
fetch() {
    if command -v curl > /dev/null; then
        curl -fsSL --retry 3 --proto '=https,file' -o "$2" "$1"
    elif command -v wget > /dev/null; then
        wget -q -O "$2" "$1"
    else
        fail "neither curl nor wget is here" "install one of them"
    fi || fail "cannot fetch $1" "check the network; HTTPS_PROXY names a proxy"
}

# The SHA-256 of a file.
hash_of() {
    if command -v sha256sum > /dev/null; then
        sha256sum "$1" | cut -d ' ' -f 1
    elif command -v shasum > /dev/null; then
        shasum -a 256 "$1" | cut -d ' ' -f 1
    else
        fail "neither sha256sum nor shasum is here: the download cannot be checked"
    fi
}

# All of it is a function, so that a download of this script that is cut short does nothing.
main() {
    case $releases in
        @*) fail "this copy of the script belongs to no release" \
            "set ZINC_RELEASES to the address of the project's releases" ;;
    esac
    target=$(machine)
    archive=zinc-$target.tar.gz
    case ${ZINC_VERSION:-latest} in
        latest) from=$releases/latest/download ;;
        *) from=$releases/download/$ZINC_VERSION ;;
    esac
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "fetching $from/$archive" >&2
    fetch "$from/SHA256SUMS" "$work/SHA256SUMS"
    fetch "$from/$archive" "$work/$archive"
    expected=$(awk -v name="$archive" '$2 == name || $2 == "*" name { print $1 }' "$work/SHA256SUMS")
    [ -n "$expected" ] || fail "SHA256SUMS does not name $archive"
    found=$(hash_of "$work/$archive")
    [ "$found" = "$expected" ] || fail "$archive has the SHA-256 $found, expected $expected" \
        "fetch it again; if it stays so, do not trust it"
    tar -xzf "$work/$archive" -C "$work"
    mkdir -p "$bin"
    # A rename, so that a zinc that runs now is not disturbed.
    cp "$work/zinc-$target/zinc" "$bin/.zinc.new"
    chmod 755 "$bin/.zinc.new"
    mv -f "$bin/.zinc.new" "$bin/zinc"
    data=${XDG_DATA_HOME:-$HOME/.local/share}
    mkdir -p "$data/man/man1" "$data/bash-completion/completions"
    cp "$work/zinc-$target/man/"*.1 "$data/man/man1/"
    cp "$work/zinc-$target/completions/zinc.bash" "$data/bash-completion/completions/zinc"
    echo "$("$bin/zinc" --version) is in $bin"
    case :$PATH: in
        *:"$bin":*) ;;
        *) echo "add it to your PATH: export PATH=\"$bin:\$PATH\"" ;;
    esac
    echo "next: zinc doctor, zinc model list --all, zinc chat -m qwen3-4b"
}

main
