"""`gpuwatch`: run, look at and stop the daemon; verify a vault; start the simulated clouds."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gpuwatch import __version__
from gpuwatch.client import wire
from gpuwatch.client.blocking import Client
from gpuwatch.client.errors import CallFailed
from gpuwatch.paths import discover

_VERIFY = """\
Exit codes: 0 everything is as proved; 1 something is damaged, truncated or missing; 2 wrong usage;
3 nothing is damaged, but something could not be judged: it cannot be read, is in no receipt, or its
run has no receipt yet.

Only the receipts are used: this works without daemon, ledger and network, and writes nothing.
`sha256sum -c .receipts/DIGEST.sha256` in a run's folder checks the same by other means."""


_LOGIN = """\
Asks for the key (or reads it from a pipe), asks the account whether it is good, and keeps it in the
system's keyring where there is one that works, else (or with --file) in a file that only you can read. A
daemon that runs without your session (a server, systemd with lingering) cannot open a keyring: use --file
there. The key is never taken from the command line.

A restricted key is enough: Vast needs the permissions for instances (read, write), search and user (read);
RunPod needs pods (read, write), and GraphQL read access if the balance is to be shown. An environment
variable (VAST_API_KEY, RUNPOD_API_KEY) goes before the kept key; the vendors' own files come after it."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="gpuwatch",
        description="The daemon that owns every rented machine: it launches, watches, mirrors, verifies and destroys.",
        epilog="Exit codes: 0 done, 1 a check found damage, 2 usage, 3 partial, 4 refused by custody, 5 out of reach.",
    )
    parser.add_argument("--version", action="version", version=f"gpuwatch {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    run = verbs.add_parser("run", help="run the daemon in the foreground (systemd, tmux and gputui do this)")
    run.add_argument("--log-format", choices=("text", "json"), default="text", help="how log lines look")
    run.add_argument(
        "--log-file",
        metavar="PATH",
        help="log there, not to stderr: bounded, rotated by the daemon itself ([log] in config.toml)",
    )
    status = verbs.add_parser("status", help="what the daemon does, its accounts and alarms")
    status.add_argument("--json", action="store_true", help="machine-readable")
    stop = verbs.add_parser(
        "stop", help="end the daemon; machines and jobs go on, a restart carries on with them"
    )
    stop.add_argument("--timeout", type=float, default=30, help="seconds to wait for its end (default 30)")
    verify = verbs.add_parser(
        "verify",
        help="read a vault again and prove every file against its receipt",
        description="Read every file of a vault from its disk again and compare it with the receipts beside it.",
        epilog=_VERIFY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("vault", nargs="?", metavar="VAULT", help="the vault's folder (default: yours)")
    verify.add_argument(
        "--run", action="append", default=[], metavar="RUN", help="only this run; may be repeated"
    )
    verify.add_argument("--json", action="store_true", help="machine-readable (docs/operations.md)")
    verify.add_argument(
        "--jobs", type=_jobs, metavar="N", help="files read at once (default: one per core, at most 8)"
    )
    install = verbs.add_parser(
        "install", help="write a service of your user that starts the daemon and keeps it running"
    )
    install.add_argument("--print", action="store_true", dest="show", help="print the unit, write nothing")
    verbs.add_parser(
        "notify-test", help="send a message to every target of the settings, and say whether it went"
    )
    doctor = verbs.add_parser("doctor", help="check everything that gpuwatch needs, and say what to do")
    doctor.add_argument("--json", action="store_true", help="machine-readable (docs/operations.md)")
    doctor.add_argument("--online", action="store_true", help="also ask the providers' accounts")
    login = verbs.add_parser(
        "login",
        help="check an account's API key and keep it for the daemon",
        description=_LOGIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    login.add_argument("vendor", choices=("vast", "runpod"))
    login.add_argument("--forget", action="store_true", help="remove the key that was kept")
    login.add_argument(
        "--file", action="store_true", help="keep it in a file of mode 0600, not in the system's keyring"
    )
    # its options are in its own module, which is only imported to run it
    canary = verbs.add_parser(
        "canary",
        help="rent one cheap machine and check what is assumed of a vendor (its options: canary --help)",
        add_help=False,
    )
    rescue = verbs.add_parser(
        "rescue",
        help="bring files from a RunPod network volume home, with no pod running (its options: rescue --help)",
        add_help=False,
    )
    for handed_over in (canary, rescue):
        handed_over.add_argument("options", nargs=argparse.REMAINDER)
    sim = verbs.add_parser(
        "sim",
        help="start the simulated clouds (all further options are its own; try: sim --help)",
        add_help=False,
    )
    sim.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _jobs(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 64):
        raise argparse.ArgumentTypeError("must be a number from 1 to 64")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The `gpuwatch` command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["sim"]:
        # its own process image: the daemon's package never imports the simulator
        os.execv(sys.executable, [sys.executable, "-m", "gpucloudsim", *arguments[1:]])  # noqa: S606
    if arguments[:1] == ["canary"]:
        from gpuwatch import cli_canary

        return cli_canary.main(arguments[1:])
    if arguments[:1] == ["rescue"]:
        from gpuwatch import cli_rescue

        return cli_rescue.main(arguments[1:])
    options = build_parser().parse_args(arguments)
    try:
        match options.verb:
            case "run":
                return _run(options.log_format, options.log_file)
            case "status":
                return _status(as_json=options.json)
            case "verify":
                from gpuwatch import cli_verify

                return cli_verify.run(options)
            case "install":
                from gpuwatch import cli_install

                return cli_install.run(show=options.show)
            case "notify-test":
                return _notify_test()
            case "doctor":
                from gpuwatch import doctor

                return doctor.run(as_json=options.json, online=options.online)
            case "login":
                from gpuwatch import cli_login

                return cli_login.run(options.vendor, forget=options.forget, file=options.file)
            case _:
                return _stop(options.timeout)
    except CallFailed as error:
        print(f"gpuwatch: {error}", file=sys.stderr)
        return wire.Code.EXIT.get(error.code, 1)


def _run(log_format: str, log_file: str | None) -> int:
    from gpuwatch.config import ConfigError, load
    from gpuwatch.daemon.main import AlreadyRunning, run
    from gpuwatch.ledger import LedgerDamaged
    from gpuwatch.logfile import LogFile
    from gpuwatch.logs import configure
    from gpuwatch.vault.layout import VaultUnusable

    paths = discover()
    stream = None
    try:
        config = load(paths.config_file)
        if log_file is not None:
            # what libraries, a traceback or the interpreter itself say at the end belongs there too
            stream = LogFile(Path(log_file), limit=config.log_bytes, keep=config.log.keep, behind=(1, 2))
    except ConfigError as error:
        print(f"gpuwatch: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"gpuwatch: the log {log_file} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    configure(as_json=log_format == "json", stream=stream)
    try:
        run(paths, config)
    except AlreadyRunning as error:
        print(f"gpuwatch: {error}", file=sys.stderr)
        return 4
    except (ConfigError, LedgerDamaged, VaultUnusable) as error:
        print(f"gpuwatch: {error}", file=sys.stderr)
        return 1
    return 0


def _notify_test() -> int:
    from gpuwatch.config import ConfigError, load
    from gpuwatch.daemon.telling import ENVIRONMENT, send, urls

    try:
        targets = urls(load(discover().config_file).notify.urls)
    except ConfigError as error:
        print(f"gpuwatch: {error}", file=sys.stderr)
        return 2
    if not targets:
        print(f"gpuwatch: no target: set notify.urls in config.toml, or {ENVIRONMENT}", file=sys.stderr)
        return 2
    if send(targets, "gpuwatch", "This is a test: alarms will arrive like this."):
        print(f"sent to {len(targets)} target{'s' * (len(targets) != 1)}")
        return 0
    print("gpuwatch: not every target took it; try them one by one", file=sys.stderr)
    return 1


def _status(*, as_json: bool) -> int:
    from gpuproviders.money import format_usd
    from gpuwatch.spec.units import format_duration, format_size

    with Client(discover().socket, name="gpuwatch") as client:
        status = client.call("status", wire.Empty(), wire.DaemonStatus)
    if as_json:
        import msgspec

        print(json.dumps(msgspec.to_builtins(status), indent=2))
        return 0
    print(
        f"gpuwatch {status.version}, pid {status.pid}, up {format_duration(status.uptime)}, {format_size(status.rss)} of memory"
    )
    print(f"state  {status.state_dir}\nvault  {status.vault}\nsocket {status.socket}")
    print("runs   " + (", ".join(f"{n} {state}" for state, n in sorted(status.runs.items())) or "none"))
    for account in status.accounts:
        credit = format_usd(account.credit) if account.credit is not None else "unknown credit"
        age = f"listed {format_duration(account.age)} ago" if account.age is not None else "never listed"
        print(
            f"{account.provider:<6} {account.problem or f'{credit}, {age}, {account.foreign} machines that are not ours'}"
        )
    for alarm in status.alarms:
        print(f"ALARM  {alarm}")
    return 0


def _stop(timeout: float) -> int:
    with Client(discover().socket, name="gpuwatch") as client:
        pid = client.welcome.pid
        client.call("shutdown", wire.Empty(), wire.Empty)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            print("gpuwatch has stopped; machines and jobs go on")
            return 0
        time.sleep(0.05)
    print(f"gpuwatch: pid {pid} has not ended in {timeout:.0f} s", file=sys.stderr)
    return 1
