"""Every command with its options: for parsing, `--help`, shell completion, the man page and the guide."""

from __future__ import annotations

import argparse

from gputui.quantities import count, duration, offer, port, positive, share, size, speed, usd

_EPILOG = """\
exit status: 0 done · 1 the job failed or a check found damage · 2 usage or spec error
             3 partial · 4 refused by custody · 5 the daemon or a provider is out of reach

Without a command the app opens. RUN is a run's name, its id, or the start of its id.
Add --json to any listing or action for a stable shape (money in micro-dollars).
"""

_QUERY = """\
A QUERY is terms that must all hold; put it in quotes, because < and > mean something to your shell:
  field<value  also <= > >= = != with the unit if you like:  price<2.5  disk>=200GB  down>1Gbps  reliability>98%
  field=a,b    one of several, field~part: holds a part:      gpu=h100,a100  region=EU  region~texas
  flag, !flag  spot (without it on-demand only), verified, datacenter, known, avoided
  word, !word  text that occurs anywhere; names with spaces stand in "double quotes"
What a vendor does not tell matches no comparison (RunPod tells no reliability). --fields lists all fields.
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; also what completion and the guide are made from."""
    parser = argparse.ArgumentParser(
        prog="gputui",
        description="Rent GPUs, train, and never lose a result.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    from gputui import __version__

    parser.add_argument("--version", action="version", version=f"gputui {__version__}")
    parser.add_argument(
        "--read-only",
        action="store_true",
        help="open the app to look and not to act: nothing can be changed in it",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", title="commands")

    def verb(name: str, text: str, *, json: bool = True) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if json:
            sub.add_argument("--json", action="store_true", help="print JSON (see docs/guide.md)")
        if name in WATCHED:
            sub.add_argument(
                "--watch",
                type=positive,
                nargs="?",
                const=2,
                metavar="SECONDS",
                help="again and again, until ctrl+c (2)",
            )
        return sub

    def of_run(name: str, text: str) -> argparse.ArgumentParser:
        sub = verb(name, text)
        sub.add_argument("run", metavar="RUN", help="name, id or start of the id")
        return sub

    offers = verb("offers", "list machines that can be rented now, cheapest first")
    offers.epilog = _QUERY
    offers.formatter_class = argparse.RawDescriptionHelpFormatter
    offers.add_argument(
        "query",
        metavar="QUERY",
        nargs="*",
        help="what it must be, e.g. 'gpu=h100 price<2.5 region=EU spot' (see below)",
    )
    offers.add_argument("--fields", action="store_true", help="what a QUERY can ask for; asks no vendor")
    offers.add_argument(
        "--transfer",
        type=size,
        default=1_000_000_000,
        metavar="SIZE",
        help="data an hour, out and in each, that the all-in price counts (1GB)",
    )
    offers.add_argument(
        "--gpu", action="append", default=[], metavar="NAME", help="GPU model, any spelling; repeatable"
    )
    offers.add_argument("--count", type=int, metavar="N", help="GPUs per machine")
    offers.add_argument("--max-price", type=usd, metavar="USD", help="dollars per hour, all-in")
    offers.add_argument("--spot", action="store_true", help="interruptible machines instead of on-demand")
    offers.add_argument("--min-reliability", type=share, metavar="SHARE", help="0…1, e.g. 0.98")
    offers.add_argument(
        "--disk",
        type=size,
        default=20_000_000_000,
        metavar="SIZE",
        help="disk to price in, e.g. 150GB (20GB)",
    )
    offers.add_argument(
        "--unverified", action="store_true", help="also hosts that the vendor has not verified"
    )
    offers.add_argument(
        "--history",
        action="store_true",
        help="what prices were when offers were listed before; asks no vendor",
    )
    offers.add_argument(
        "--days", type=float, default=14, metavar="N", help="with --history: so far back (14)"
    )
    offers.add_argument("--sort", default="price", choices=SORTS, help="column to sort by (price)")
    offers.add_argument("--limit", type=positive, default=50, metavar="N", help="rows to show (50)")

    machines = verb(
        "machines", "what we have seen of machines ourselves: duds, boots, speeds, what is avoided"
    )
    machines.add_argument("provider", metavar="PROVIDER", nargs="?", help="only of vast, runpod or ssh")
    avoid = verb("avoid", "rent a machine no more, for a time")
    avoid.add_argument(
        "machine", metavar="MACHINE", help="PROVIDER:ID from `gputui machines`, or a run: its machine"
    )
    avoid.add_argument(
        "--for",
        dest="seconds",
        type=duration,
        default=90 * 86_400.0,
        metavar="TIME",
        help="e.g. 12h, 30d (90d)",
    )
    forgive = verb("forgive", "take a machine back: forget what speaks against it")
    forgive.add_argument(
        "machine", metavar="MACHINE", help="PROVIDER:ID from `gputui machines`, or a run: its machine"
    )
    for word in (avoid, forgive):
        word.add_argument("--reason", default="", metavar="TEXT", help="why; shown with the machine")

    launch = verb("launch", "start a run from a spec")
    launch.add_argument("spec", metavar="SPEC.toml", help="the run spec; `-` reads standard input")
    launch.add_argument("--offer", type=offer, metavar="PROVIDER:ID", help="rent exactly this offer")
    launch.add_argument(
        "--resume-from",
        metavar="WHERE",
        help="begin from a checkpoint, put on the box and proved before the job starts: latest or a step (of the newest run "
        "of this name), RUN or RUN:STEP, a path of this machine, an rclone remote such as gdrive:runs/miras-ab3d",
    )
    launch.add_argument("--yes", "-y", action="store_true", help="do not ask before spending money")
    launch.add_argument("--dry-run", action="store_true", help="check the spec, print the plan, rent nothing")
    launch.add_argument("--wait", action="store_true", help="print the timeline until the run has ended")
    launch.add_argument("--follow", action="store_true", help="like --wait, with the job's log between")

    listing = verb("ls", "list runs, newest first")
    listing.add_argument(
        "--all", action="store_true", help="also the ended runs that the daemon only keeps on its disk"
    )

    of_run("show", "everything about one run")

    logs = of_run("logs", "print a run's log, also after its machine is gone")
    logs.add_argument("--follow", "-f", action="store_true", help="go on as the log grows")
    logs.add_argument("--tail", type=count, metavar="N", help="only the last N lines")
    logs.add_argument("--raw", action="store_true", help="bytes exactly as captured, escapes included")

    destroy = of_run("destroy", "collect, verify, then destroy a run's machine")
    destroy.add_argument(
        "--preview", action="store_true", help="change nothing; exit 4 when something is not yet safe"
    )
    destroy.add_argument("--wait", action="store_true", help="print the timeline until the machine is gone")
    destroy.add_argument("--cancel", action="store_true", help="take back a destroy that has not been sent")
    destroy.add_argument("--waive", nargs="+", default=[], metavar="PATH", help="files that may be lost")
    destroy.add_argument(
        "--waive-all", action="store_true", help="every file that is not verified may be lost"
    )
    destroy.add_argument("--confirm", default="", metavar="NAME", help="the run's name; needed to waive")
    destroy.add_argument(
        "--reason", default="", metavar="TEXT", help="why they may be lost; kept in the ledger"
    )

    retry = of_run("retry", "try a failed run again: collect again, or launch its spec as another run")
    retry.add_argument(
        "--fresh", action="store_true", help="from the beginning, not from its newest checkpoint at home"
    )
    recover = of_run("recover", "leave a run's machine: go on elsewhere from the newest checkpoint at home")
    recover.add_argument("--reason", default="", metavar="TEXT", help="why; kept in the ledger")
    stop = of_run("stop", "collect, then stop a run's machine and keep its disk, which is billed on")
    start = of_run("start", "start a stopped machine again, under the same run; its job is not started")
    for halt in (stop, start):
        halt.add_argument("--reason", default="", metavar="TEXT", help="why; kept in the ledger")
    for mend in (retry, recover, start):
        mend.add_argument("--yes", "-y", action="store_true", help="do not ask before spending money")

    ssh = verb("ssh", "a shell on a run's box, or one command there; exits as that does", json=False)
    ssh.add_argument("run", metavar="RUN", help="name, id or start of the id")
    ssh.add_argument("--print", action="store_true", help="print the ssh command instead")
    ssh.add_argument(
        "command", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run (default: a shell)"
    )
    forward = verb("forward", "a port of a run's box on this machine's loopback, until ctrl+c", json=False)
    forward.add_argument("run", metavar="RUN", help="name, id or start of the id")
    forward.add_argument(
        "port", metavar="PORT", nargs="?", type=port, default=6006, help="on the box (6006: TensorBoard)"
    )
    forward.add_argument(
        "--local", type=port, metavar="PORT", help="here (the same; 8000 more for one below 1024)"
    )

    of_run("why", "why a run's machine exists, and what happens next")

    evacuate = verb("evacuate", "bring everything home and end every machine: collect, verify, destroy each")
    evacuate.add_argument("--yes", "-y", action="store_true", help="do not ask")

    holds = verb("holds", "every hold: what keeps machines from being destroyed, who placed it, how it goes")
    holds.add_argument(
        "run", metavar="RUN", nargs="?", help="name, id or start of the id (default: all runs)"
    )

    hold = of_run("hold", "hold a run's machine under a name until it is released")
    hold.add_argument("--name", default="pin", metavar="HOLD", help="a name of your choice (default: pin)")
    hold.add_argument(
        "--reason", default="", metavar="TEXT", help="why; shown with the hold, kept in the ledger"
    )
    pin = of_run("pin", "hold a run's machine: the same as hold --name pin")
    pin.add_argument(
        "--reason", default="", metavar="TEXT", help="why; shown with the hold, kept in the ledger"
    )

    release = of_run("release", "remove one hold alone; the others stand")
    release.add_argument("hold", metavar="HOLD", help="its name, from `gputui holds`")
    unpin = of_run("unpin", "remove the pin: the same as release RUN pin")
    for leave in (release, unpin):
        leave.add_argument("--reason", default="", metavar="TEXT", help="why; kept in the ledger")
    release.add_argument(
        "--confirm", default="", metavar="NAME", help="the run's name; needed where files may be lost"
    )

    resolve = verb("resolve", "answer for an alarm about a machine: you looked, and say what you found")
    resolve.add_argument("label", metavar="LABEL", help="the machine's label, from the alarm")
    resolve.add_argument("--reason", required=True, metavar="TEXT", help="what you found; kept in the ledger")

    cost = verb("cost", "what runs have cost, what they will cost, how long the balance lasts")
    cost.add_argument("run", metavar="RUN", nargs="?", help="name, id or start of the id")

    mirror = verb("mirror", "how far the copies behind rclone are")
    mirror.add_argument("action", choices=("status",), help="status: every run on every remote of its spec")
    mirror.add_argument("run", metavar="RUN", nargs="?", help="name, id or start of the id")

    events = verb("events", "the timeline of one run, or of all")
    events.add_argument("run", metavar="RUN", nargs="?", help="name, id or start of the id")
    events.add_argument("--follow", "-f", action="store_true", help="go on as things happen")
    events.add_argument("--since", type=count, default=0, metavar="SEQ", help="only after this event number")

    verb("status", "the daemon, its accounts and its alarms")

    record = verb("record", "write down what the daemon says, redacted, for a bug report", json=False)
    record.add_argument("file", metavar="FILE", help="a new file (lines of JSON)")
    record.add_argument("--seconds", type=positive, metavar="N", help="end by itself after that time")
    record.add_argument("--no-logs", action="store_true", help="leave the jobs' logs out")

    replay = verb("replay", "play a recording in the app", json=False)
    replay.add_argument("file", metavar="FILE", help="made by `gputui record`")
    replay.add_argument(
        "--speed", type=speed, default=1.0, metavar="X", help="times as fast; 0 is all at once (1)"
    )

    serve = verb("serve", "the app in a browser of this machine, behind a token", json=False)
    serve.add_argument(
        "--read-only", action="store_true", dest="looks", help="pages that can look and not act"
    )
    serve.add_argument(
        "--port", type=port, default=8023, metavar="N", help="on 127.0.0.1; 0 takes a free one (8023)"
    )

    completion = verb("completion", "print a shell completion script", json=False)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))

    login = verb("login", "check and keep the key of an account", json=False)
    login.add_argument("vendor", choices=("vast", "runpod"))
    login.add_argument("--forget", action="store_true", help="remove the key that was kept")
    login.add_argument(
        "--file", action="store_true", help="keep it in a file of mode 0600, not in the system's keyring"
    )

    verb("canary", "rent one cheap machine for real and check what is assumed of a vendor", json=False)
    verb("rescue", "bring files from a RunPod network volume home, with no pod running", json=False)
    # the demo has options of its own; main() hands them over before this parser looks at them
    verb("demo", "the whole story on a simulated cloud: no account, no key, no cost", json=False)
    return parser


WATCHED = ("offers", "machines", "ls", "show", "why", "holds", "mirror", "status")
"""Commands that can be repeated."""
SORTS = ("price", "gpu", "count", "reliability", "region", "memory", "download", "tflop", "tokens")
