#!/usr/bin/env bash
# Build MicroPython's unix port with an exported C folder as a user module, and compare what
# digit.read returns for the folder's example images with the expected output.
#
#   tools/try_micropython.sh RUN/c-int8
#
# MicroPython's source is Debian's. The package is in trixie and not in bookworm, so the list of
# trixie's sources is read, into a folder for this script alone. Needs apt, dpkg-dev, gcc and make.
set -euo pipefail
folder=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p lists/partial cache/archives/partial modules
echo "deb-src http://deb.debian.org/debian trixie main" > sources.list
apt=(
    apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
)
"${apt[@]}" update
"${apt[@]}" source micropython > /dev/null
cp -r "$folder" modules/digit
# The smallest variant: no library beyond the C library, and enough Python for this.
make -s -C micropython-*/ports/unix -j "$(nproc)" \
    VARIANT=minimal BUILD="$work/build" USER_C_MODULES="$work/modules" > build.txt 2>&1 ||
    { tail build.txt; exit 1; }
python3 - "$folder" <<'PY'
import sys
from pathlib import Path
folder = Path(sys.argv[1])
images, lines = (folder / "example.raw").read_bytes(), (folder / "example.txt").read_text().splitlines()
size = len(images) // len(lines)
assert lines and size * len(lines) == len(images)
calls = [f"print(digit.read({images[i * size : (i + 1) * size]!r}))" for i in range(len(lines))]
refused = "try:\n    digit.read({!r})\nexcept {}:\n    print('refused')"
Path("read.py").write_text(
    "\n".join(
        [
            "import digit",
            "print(digit.HEIGHT * digit.WIDTH, digit.CLASSES, digit.LOGIT > 0)",
            *calls,
            refused.format(images[: size - 1], "ValueError"),
            refused.format(3, "TypeError"),
        ]
    )
)
rows = [list(map(int, line.split())) for line in lines]
said = [f"{size} {len(rows[0]) - 1} True", *(str((label, tuple(scores))) for label, *scores in rows)]
Path("expected.txt").write_text("\n".join([*said, "refused", "refused", ""]))
PY
build/micropython read.py | diff - expected.txt
echo "MicroPython reads the $(wc -l < "$folder/example.txt") example images as expected"
