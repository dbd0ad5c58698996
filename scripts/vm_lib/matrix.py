"""What kernels do: results of scripts/kernels, and docs/kernels.md."""

import json
import re
import textwrap

from .common import CACHE, REPOSITORY
from .reasons import LACKS, reason

RESULTS = CACHE / "results" / "kernels"
PAGE = REPOSITORY / "docs" / "kernels.md"
PROMISES = {
    "load": "loads every kind of rule over netlink, and reads them back",
    "render": "`render` loads with `nft -f` and is the same",
    "traffic": "peers pass, strangers do not, both families",
    "owner": "while the agent runs, no other process can change the table",
    "agent": "the agent repairs, follows the policy, leaves its rules when killed",
    "restart keeps rules": "a restart of the agent keeps rules and counters",
    "trial": "a trial is rolled back",
    "revocation": "connections of a removed peer end, other ones stay",
    "routed overlay": "overlays without a tunnel (`host-gw`, `none`)",
    "iptables-legacy": "the iptables backend, iptables-legacy",
    "iptables-nft": "the iptables backend, iptables-nft",
    "import --live": "`import --live`",
    "units": "the units start, reload, restart and stop under systemd",
    "kernel log": "no warning of the kernel",
}


def save(result):
    """Saves a result. Sections and tests that did not run this time stay as they were."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{result['kernel']}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    for results in (old, result):
        stamp(results)
    kept = {key: old.get(key, []) for key in ("checks", "lacks") if not result[key]}
    tests = {one["test"]: one for one in old.get("tests", [])}
    tests.update((one["test"], one) for one in result["tests"] if has_run(one) or one["test"] not in tests)
    path.write_text(json.dumps({**result, **kept, "tests": list(tests.values())}, indent=1))


def stamp(result):
    """Notes the program's version at each result, because later runs may repeat only a part."""
    for key in ("checks", "lacks", "tests"):
        for one in result.get(key, []):
            one.setdefault("commit", result["commit"])


SKIPPED = ("not run", "timeout")


def has_run(one):
    return one["result"] not in SKIPPED


def results():
    found = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    return sorted(found, key=lambda result: order(result["kernel"]))


def order(name):
    numbers = [int(part) for part in re.findall(r"\d+", name)[:2]]
    return "without" in name, "cloud" in name, numbers


class Notes:
    """Footnotes: each reason once, with a number."""

    def __init__(self):
        self.texts, self.unexplained = [], []

    def mark(self, kernel, check, detail):
        text = reason(kernel, check, detail)
        if text is None:
            self.unexplained.append((kernel, check, detail))
            return "**?**"
        if text not in self.texts:
            self.texts.append(text)
        return f"({self.texts.index(text) + 1})"


def page():
    """Writes the page. Returns failures that nothing explains."""
    every, notes = results(), Notes()
    newest = max(result["date"] for result in every)
    tools = every[0]["tools"]
    parts = [HEAD.format(date=newest, tools=tools), kernels_table(every)]
    parts += [
        "## Promises\n",
        promises(every, notes),
        "## Integration tests\n",
        TESTS_HEAD,
        tests(every, notes),
        "## Without modules\n",
        LACKS_HEAD,
        lacks(every, notes),
        *(f"- {text}" for text in LACKS),
        "",
    ]
    parts += [
        "## Reasons\n",
        "\n".join(f"{n}. {text}" for n, text in enumerate(notes.texts, 1)) or "None needed.",
    ]
    if notes.unexplained:
        parts.append("\n## Unexplained\n")
        parts += [
            f"- {kernel}, {check}: `{first_line(detail)}`" for kernel, check, detail in notes.unexplained
        ]
    write_page(PAGE, "\n".join(parts))
    return notes.unexplained


HEAD = """# Kernels

Written by `scripts/kernels` on {date}: peerwall in virtual machines with kernels of Debian's
archive, one core, 1 GiB, emulated or with KVM. User space of the guests: {tools}. Reasons are
numbered; `**?**` marks a failure without one.
"""
TESTS_HEAD = """Tests that passed, of those that ran. Some need more than their time on an emulated
processor; these are not counted, and `scripts/kernels --budget SECONDS` gives them more.
"""
LACKS_HEAD = """Modules are made unloadable, then `apply` loads a policy into a fresh namespace, and
packets show whether it filters. In the cells: the backend in use, or `refused` with the length of
the message, and the options of the kernel's configuration that the message names. The policy has an allow with `limit`, and `denied = "reject"`, where the module is about
these.
"""


def table(heads, rows):
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def kernels_table(every):
    keys = ("kernel", "version", "date", "accelerator")
    heads = ["kernel", "version", "tested", "accelerator", "peerwall"]
    return table(heads, [[*(result[key] for key in keys), commits(result)] for result in every])


def commits(result):
    """The program's versions: not all parts ran with the same one."""
    stamp(result)
    parts = (one for key in ("checks", "tests", "lacks") for one in result[key])
    return ", ".join(dict.fromkeys(one["commit"] for one in parts if one["result"] not in SKIPPED))


def promises(every, notes):
    rows = []
    for check, text in PROMISES.items():
        cells = []
        for result in every:
            seen = next((one for one in result["checks"] if one["check"] == check), None)
            cells.append(
                ""
                if seen is None
                else (
                    "yes"
                    if seen["result"] == "pass"
                    else f"no {notes.mark(result['kernel'], check, seen['detail'])}"
                )
            )
        rows.append([text, *cells])
    return table(["promise", *(result["kernel"] for result in every)], rows)


def tests(every, notes):
    with_tests = [result for result in every if result["tests"]]
    binaries = dict.fromkeys(
        binary_of(one) for result in with_tests for one in result["tests"] if has_run(one)
    )
    rows = [
        [f"`{binary}`", *(tests_cell(result, binary, notes) for result in with_tests)] for binary in binaries
    ]
    return table(["tests", *(result["kernel"] for result in with_tests)], rows)


def binary_of(one):
    return one["test"].split("::")[0]


def tests_cell(result, binary, notes):
    ran = [one for one in result["tests"] if binary_of(one) == binary and has_run(one)]
    if not ran:
        return ""
    failed = [one for one in ran if one["result"] == "fail"]
    marks = sorted({notes.mark(result["kernel"], one["test"], one["detail"]) for one in failed})
    return " ".join([f"{len(ran) - len(failed)}/{len(ran)}", *marks])


def lacks(every, notes):
    with_lacks = [result for result in every if result["lacks"]]
    names = []
    for result in with_lacks:
        names += [one["check"] for one in result["lacks"] if one["check"] not in names]
    rows = []
    for name in names:
        cells = []
        for result in with_lacks:
            seen = next((one for one in result["lacks"] if one["check"] == name), None)
            detail = json.loads(seen["detail"]) if seen else None
            cells.append(lack_cell(detail) if seen else "")
            if detail and detail["rc"] == 0 and detail.get("filters") is not True:
                notes.unexplained.append(
                    (result["kernel"], name, f"does not filter: {detail.get('filters')}")
                )
        rows.append([f"`{name.removeprefix('without ')}`", *cells])
    return table(["without", *(result["kernel"] for result in with_lacks)], rows)


def lack_cell(detail):
    if detail["rc"] != 0:
        tool = detail["error"].removeprefix("error: apply: ").split(":")[0]
        cell = f"**refused** by {tool}, {detail['lines']} lines"
    else:
        filters = detail.get("filters")
        cell = f"{detail.get('backend')}, " + (
            "filters" if filters is True else f"**does not filter**: {filters}"
        )
        if any(line.startswith("warning") for line in detail["said"].splitlines()):
            cell += ", with a warning"
    if detail["options"]:
        cell += f"; names {', '.join(option.removeprefix('CONFIG_') for option in detail['options'])}"
    return cell + (f" ({detail['note']})" if detail.get("note") else "")


def first_line(text):
    return (text.strip().splitlines() or [""])[0][:160].replace("`", "'")


def write_page(path, text):
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
