"""The pages of documentation, as the tests read them."""

import re

import setup_main

ROOT = setup_main.ROOT
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
READMES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md")
PACKAGE_READMES = sorted(
    (directory / "README.md").relative_to(ROOT).as_posix()
    for directory in setup_main.package_directories()
    if (directory / "README.md").exists()
)
EVERY_PAGE = [*READMES, *PACKAGE_READMES, *PAGES]

Rows = list[list[str]]


def text_of(page: str) -> str:
    """Return a page of docs/."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def tables(page: str) -> list[Rows]:
    """Return the tables of a page of docs/: their rows, the head first, cells as written."""
    found: list[Rows] = []
    before = ""
    for line in text_of(page).splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not before.startswith("|"):
                found.append([])
            found[-1].append(cells)
        before = line
    return found


def table(page: str, *head: str) -> Rows:
    """Return the rows below the head of the one table that begins with these cells."""
    (rows,) = [rows for rows in tables(page) if tuple(rows[0][: len(head)]) == head]
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1, f"{page}: rows of different lengths below {head}"
    return rows[1:]


def code(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
