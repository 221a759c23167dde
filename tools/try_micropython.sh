#!/usr/bin/env bash
# Build MicroPython's unix port with an exported C folder as a user module, and compare what
# digit.read returns for the folder's example images with the expected output, and what
# digit.prepare makes of them, turned into pictures, with its definition.
#
#   tools/try_micropython.sh RUN/c-int8
#
# MicroPython's source is Debian's. The package is in trixie and not in bookworm, so the list of
# trixie's sources is read, into a folder for this script alone. Needs apt, dpkg-dev, gcc and make,
# and a python3 that has Featherweight.
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

import numpy as np

from featherweight.export.prepare import prepare_integers

folder = Path(sys.argv[1])
images, lines = (folder / "example.raw").read_bytes(), (folder / "example.txt").read_text().splitlines()
size = len(images) // len(lines)
assert lines and size * len(lines) == len(images)
rows = [list(map(int, line.split())) for line in lines]
# Each line of read.py prints one line, which stands beside it.
constants = "digit.HEIGHT * digit.WIDTH, digit.CLASSES, digit.LOGIT > 0"
steps = [(constants, f"{size} {len(rows[0]) - 1} True")]
for i, (label, *scores) in enumerate(rows):
    steps += [
        (f"digit.read({images[i * size : (i + 1) * size]!r})", (label, tuple(scores))),
        ("digit.looks() in (1, digit.LOOKS)", True),
    ]
refused = [(f"digit.read({images[: size - 1]!r})", "ValueError"), ("digit.read(3)", "TypeError")]
prepares = (folder / "src/prepare.c").exists()
steps.append(("hasattr(digit, 'prepare')", prepares))
if prepares:
    digits = np.frombuffer(images, np.uint8).reshape(len(rows), 28, -1)
    for digit, times, least, sign in zip(digits, (1, 2, 3, 4, 5), (60, 250, 0, 200, 0), (1, -1) * 3):
        # Dark ink on light paper if the sign is negative, with a margin on the right and below.
        ink = np.pad(digit.repeat(times, 0).repeat(times, 1), ((0, 7), (0, 12)))
        picture = (least + sign * (ink.astype(int) // 2)).clip(0, 255).astype(np.uint8)
        height, width = picture.shape
        call = f"digit.prepare({picture.tobytes()!r}, {width}, {height})"
        steps.append((call, prepare_integers(picture).tobytes()))
    blank = prepare_integers(np.full((30, 30), 200, np.uint8))
    steps.append(("digit.prepare(bytes([200] * 900), 30, 30)", blank))
    refused += [
        ("digit.prepare(bytes(899), 30, 30)", "ValueError"),
        ("digit.prepare(b'', 0, 30)", "ValueError"),
        ("digit.prepare(bytes(900), '30', 30)", "TypeError"),
    ]
attempt = "try:\n    {}\nexcept {}:\n    print('refused')"
program = ["import digit", *(f"print({call})" for call, _ in steps)]
program += [attempt.format(*each) for each in refused]
Path("read.py").write_text("\n".join(program))
expected = [*(str(value) for _, value in steps), *["refused"] * len(refused)]
Path("expected.txt").write_text("\n".join([*expected, ""]))
PY
build/micropython read.py | diff - expected.txt
prepares=$([ -f "$folder/src/prepare.c" ] && echo ", and prepares pictures," || true)
echo "MicroPython reads $(wc -l < "$folder/example.txt") images$prepares as expected"
