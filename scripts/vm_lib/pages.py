"""The pages in docs that scripts write: their tables, their footnotes, and how Markdown is written.

A page is the record of its results: the cache of a machine has only those that ran there. A cell without a
result in the cache stays as it is on the page.
"""

import re
import textwrap


class Old:
    """A page as it was: the tables by the first heads of their columns, and the numbered footnotes."""

    def __init__(self, path):
        text = path.read_text() if path.exists() else ""
        self.tables = {}
        for block in text.split("\n\n"):
            lines = block.splitlines()
            if len(lines) > 2 and lines[1].startswith("|---"):
                self.add([split(line) for line in lines if line.startswith("| ")])
        found = re.findall(r"^(\d+)\. (.*(?:\n   .*)*)", text, re.M)
        self.notes = {number: re.sub(r"\s+", " ", words) for number, words in found}

    def add(self, rows):
        heads = rows[0]
        self.tables[heads[0]] = {row[0]: dict(zip(heads[1:], row[1:])) for row in rows[1:]}

    def rows(self, table):
        return self.tables.get(table, {})

    def cell(self, table, row, column):
        return self.rows(table).get(row, {}).get(column, "")

    def columns(self, table):
        return list(dict.fromkeys(column for row in self.rows(table).values() for column in row))


def split(line):
    """The cells of a row, without the escapes of bars."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def table(heads, rows):
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in escaped)]) + "\n"


def first_line(text):
    return (text.strip().splitlines() or [""])[0][:160].replace("`", "'")


def write(path, text):
    """Writes Markdown. Paragraphs and items are wrapped; tables and headings stay."""
    blocks = []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith(("|", "#")):
            blocks.append(block)
        elif re.match(r"\d+\. |- ", lines[0]):
            blocks.append("\n".join(fill(line, " " * line.index(" ") + " ") for line in lines))
        else:
            blocks.append(fill(" ".join(lines)))
    path.write_text("\n\n".join(blocks) + "\n")


def fill(text, indent=""):
    return textwrap.fill(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
