"""What kernels do: results of scripts/kernels, and docs/kernels.md."""

import json
import re

from . import pages, payload
from .common import CACHE, REPOSITORY, Problem
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
    "test": "`test --kernel` asks the kernel, and both verdicts agree",
    "verify": "`apply --verify kernel` refuses a policy whose `[[expect]]` the kernel does not meet",
    "explain": "`explain` says what packets experience",
    "explain --live": "the same for `--live`, with rules of iptables-nft and iptables-legacy",
    "trace": "`trace` shows the rules that packets meet, and leaves no table",
    "doctor": "`doctor --hooks` lists the chains of every program",
    "exposed": "`exposed` lists the programs that listen, and who reaches them",
    "sources": "members from the Kubernetes API: unit, user of its own, `LoadCredential`, `IPAddressAllow`",
    "kernel log": "no warning of the kernel",
}


def save(result):
    """Saves a result. Checks and tests that did not run this time stay as they were."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{result['kernel']}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    for results in (old, result):
        stamp(results)
    merged = dict(result)
    for key, name in (("checks", "check"), ("lacks", "check"), ("tests", "test")):
        found = {one[name]: one for one in old.get(key, [])}
        found.update((one[name], one) for one in result[key] if has_run(one) or one[name] not in found)
        merged[key] = list(found.values())
    path.write_text(json.dumps(merged, indent=1))


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

    def __init__(self, old):
        self.old, self.texts, self.unexplained = old, [], []

    def mark(self, kernel, check, detail):
        text = reason(kernel, check, detail)
        if text is None:
            self.unexplained.append((kernel, check, detail))
            return "**?**"
        return self.number(text)

    def number(self, text):
        if text not in self.texts:
            self.texts.append(text)
        return f"({self.texts.index(text) + 1})"

    def kept(self, cell):
        """A cell of the old page, with the numbers that its reasons have now."""
        notes = self.old.notes
        return re.sub(
            r"\((\d+)\)", lambda mark: self.number(notes[mark[1]]) if mark[1] in notes else mark[0], cell
        )


def page():
    """Writes the page. Returns failures that nothing explains."""
    old, every = pages.Old(PAGE), results()
    if not every:
        raise Problem(f"no results in {RESULTS}")
    notes = Notes(old)
    kernels, facts = kernels_table(old, every)
    parts = [HEAD.format(**facts), kernels]
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
            f"- {kernel}, {check}: `{pages.first_line(detail)}`"
            for kernel, check, detail in notes.unexplained
        ]
    pages.write(PAGE, "\n".join(parts))
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


def kernels_table(old, every):
    """The table of kernels, and what the head says of all of them."""
    rows = {name: dict(cells) for name, cells in old.rows("kernel").items()}
    for result in every:
        before = rows.get(result["kernel"], {}).get("peerwall", "").split(", ")
        rows[result["kernel"]] = {
            "version": result["version"],
            "tested": result["date"],
            "accelerator": result["accelerator"],
            # Cells that did not run again are of the versions before.
            "peerwall": ", ".join(dict.fromkeys(word for word in [*before, *commits(result)] if word)),
        }
    heads = ["version", "tested", "accelerator", "peerwall"]
    table = [[name, *(rows[name][head] for head in heads)] for name in sorted(rows, key=order)]
    facts = {"date": max(row["tested"] for row in rows.values())}
    return pages.table(["kernel", *heads], table), {**facts, "tools": every[0]["tools"]}


def commits(result):
    """The program's versions: not all parts ran with the same one."""
    stamp(result)
    parts = (one for key in ("checks", "tests", "lacks") for one in result[key])
    return dict.fromkeys(one["commit"] for one in parts if one["result"] not in SKIPPED)


def merged(title, names, cells, notes):
    """A table of rows by kernels: new cells, and those of the old page where nothing ran."""
    columns = [*notes.old.columns(title), *(kernel for _, kernel in cells)]
    kernels = sorted(dict.fromkeys(columns), key=order)
    rows = []
    for name in names:
        row = [
            cells.get((name, kernel)) or notes.kept(notes.old.cell(title, name, kernel)) for kernel in kernels
        ]
        if any(row):
            rows.append([name, *row])
    return pages.table([title, *kernels], rows)


def promises(every, notes):
    cells = {}
    for check, text in PROMISES.items():
        for result in every:
            for seen in (one for one in result["checks"] if one["check"] == check):
                cells[text, result["kernel"]] = (
                    "yes"
                    if seen["result"] == "pass"
                    else f"no {notes.mark(result['kernel'], check, seen['detail'])}"
                )
    return merged("promise", PROMISES.values(), cells, notes)


def tests(every, notes):
    cells = {}
    for result in every:
        for binary in payload.BINARIES:
            cell = tests_cell(result, binary, notes)
            if cell:
                cells[f"`{binary}`", result["kernel"]] = cell
    return merged("tests", [f"`{binary}`" for binary in payload.BINARIES], cells, notes)


def tests_cell(result, binary, notes):
    ran = [one for one in result["tests"] if one["test"].split("::")[0] == binary and has_run(one)]
    if not ran:
        return ""
    failed = [one for one in ran if one["result"] == "fail"]
    marks = sorted({notes.mark(result["kernel"], one["test"], one["detail"]) for one in failed})
    return " ".join([f"{len(ran) - len(failed)}/{len(ran)}", *marks])


def lacks(every, notes):
    cells = {}
    for result in every:
        for seen in result["lacks"]:
            name, detail = seen["check"], json.loads(seen["detail"])
            cells[f"`{name.removeprefix('without ')}`", result["kernel"]] = lack_cell(detail)
            if detail["rc"] == 0 and detail.get("filters") is not True:
                notes.unexplained.append(
                    (result["kernel"], name, f"does not filter: {detail.get('filters')}")
                )
    names = dict.fromkeys([*notes.old.rows("without"), *(name for name, _ in cells)])
    return merged("without", names, cells, notes)


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
