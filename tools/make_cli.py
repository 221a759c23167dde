"""Write the command reference, docs/reference/cli.md, from the command line's own parser.

python tools/make_cli.py
"""

import re
from pathlib import Path

from cyclopts.help import format_usage

from featherweight.cli import COMMAND_GROUPS, app

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
INTRODUCTION = """\
# Command line

Every command has a page of help, which needs no PyTorch: `featherweight train --help`. Data goes
to standard output, everything else to standard error. [Exit codes](exit-codes.md) are listed on
their own page.

<!-- Below this line the page is generated: python tools/make_cli.py -->
"""


def command_sections() -> dict[str, str]:
    """Return the reference of each command in Markdown, by command, without its heading."""
    text = app.generate_docs(heading_level=2)
    _, *parts = re.split(r"^### featherweight (\S+)\n", text, flags=re.MULTILINE)
    # Cyclopts' own usage line depends on how Python was started, so it is replaced.
    return {
        name: re.sub(r"```console\n.*\n```", f"```console\n{usage(name)}\n```", section).strip()
        for name, section in zip(parts[::2], parts[1::2], strict=True)
    }


def usage(command: str) -> str:
    """Return the usage line of a command, as its help shows it."""
    line = app[command].usage or str(format_usage(app, [command]))
    return line.removeprefix("Usage: ").strip()


def make_page() -> str:
    """Return the page: the groups of `featherweight --help` and their commands, in its order."""
    sections = command_sections()
    lines = [INTRODUCTION]
    for title, commands in COMMAND_GROUPS.items():
        lines.append(f"## {title}\n")
        for command in commands:
            if command in sections:  # --help and --version have none
                lines.append(f"### featherweight {command}\n\n{sections[command]}\n")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
    print(PAGE)
