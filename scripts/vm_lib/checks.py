"""What the situations of scripts/boot-test check, each in one place."""

import time

from .common import Problem


class Wrong(Problem):
    """A situation did not end as it must."""


def want(condition, text):
    if not condition:
        raise Wrong(text)


def until(condition, text, seconds=90):
    """Waits for a condition, which must hold within the time. `text` may be a function."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Wrong(text() if callable(text) else text)
        time.sleep(0.5)


def never_answered(probes, when):
    """No stranger was answered."""
    stranger = probes["stranger"]
    want(
        not stranger["answered"],
        f"a stranger was answered {when}: {stranger['answered']} times, in {stranger['spans']}",
    )


def few_lost(probes, when, most=60):
    """The peer was answered nearly always. The last probes may wait for their answers."""
    peer = probes["peer"]
    want(peer["sent"] - peer["answered"] <= most, f"the peer lost probes {when}: {peer}")


def both_answered(probes):
    """Shows that probes arrive at a node without rules."""
    open_to = [who for who in ("stranger", "peer") if probes[who]["answered"]]
    want(len(open_to) == 2, f"the outsider does not reach the open node: {probes}")


def ports(lab):
    """Strangers reach the port of ssh, and no other one."""
    want(not lab.reaches(9999), "a stranger reaches a port that is not allowed")
    want(lab.reaches(22), "a stranger does not reach ssh, which every situation leaves open")
