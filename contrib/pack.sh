#!/bin/sh
# Packs the release build of a target into dist/zinc-TARGET.tar.gz (Windows: .zip).
# Usage: contrib/pack.sh TARGET, after cargo build --release --target TARGET.

set -eu

target=${1:?"usage: contrib/pack.sh TARGET"}
cd "$(dirname "$0")/.."
case $target in
    *windows*) exe=.exe ;;
    *) exe= ;;
esac
zinc=target/$target/release/zinc$exe
name=zinc-$target
rm -rf "dist/$name"
mkdir -p "dist/$name/completions"
cp "$zinc" LICENSE README.md CHANGELOG.md "dist/$name/"
for shell in bash zsh fish powershell; do
    "$zinc" completions "$shell" > "dist/$name/completions/zinc.$shell"
done
"$zinc" man --dir "dist/$name/man"
cp contrib/zinc.service "dist/$name/"

cd dist
case $target in
    *windows*) 7z a -bso0 "$name.zip" "$name" ;;
    *) tar -czf "$name.tar.gz" "$name" ;;
esac
rm -rf "$name"
ls -l
