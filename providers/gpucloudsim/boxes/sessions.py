"""SSH sessions of a box: exec, shell and PTY with the semantics of OpenSSH's sshd.

- Without a PTY the command gets three pipes; bytes pass unchanged, with back-pressure both ways.
  The channel closes when the process has ended *and* both output pipes are at their end, so a
  background process that keeps stdout open keeps the session open, as with sshd.
- When the client goes away the pipes are closed (the process meets EOF and SIGPIPE); nothing is
  killed. With a PTY the terminal hangs up and the kernel sends SIGHUP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from gpucloudsim.boxes import terminal

CHUNK = 256 * 1024
ACCEPTED_ENV = ("LANG", "LC_", "COLORTERM")
"""sshd's usual AcceptEnv: other variables sent by a client are ignored."""
LAST_WORDS_S = 0.3
"""How long the output of a terminal is still read after its process has ended."""

Count = Callable[[int, int], None]
"""Called with bytes (from the box, to the box)."""
Process = asyncssh.SSHServerProcess[bytes]


@dataclass(frozen=True)
class Shell:
    """What a session starts with."""

    env: Mapping[str, str]
    cwd: Path
    file_limit: int | None
    """Largest file the processes may write, in bytes (stands in for a full disk)."""


def session_env(shell: Shell, process: Process) -> dict[str, str]:
    """The environment of a session: the box's, what sshd adds, and the few variables it accepts."""
    env = dict(shell.env)
    for raw_name, raw_value in process.env.items():
        name, value = _text(raw_name), _text(raw_value)
        if name.startswith(ACCEPTED_ENV):
            env[name] = value
    peer = process.get_extra_info("peername") or ("127.0.0.1", 0)
    here = process.get_extra_info("sockname") or ("127.0.0.1", 22)
    env["SSH_CLIENT"] = f"{peer[0]} {peer[1]} {here[1]}"
    env["SSH_CONNECTION"] = f"{peer[0]} {peer[1]} {here[0]} {here[1]}"
    if process.term_type:
        env["TERM"] = process.term_type
    return env


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def command_line(command: str | None, file_limit: int | None = None) -> list[str]:
    """What sshd runs: the user's shell, with -c for a command; under a limit on file sizes if there is one."""
    shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
    argv = [shell] if command is None else [shell, "-c", command]
    if file_limit is None:
        return argv
    limit = f"ulimit -f {file_limit // 1024}; trap '' XFSZ; exec \"$@\""
    return [shell, "-c", limit, "limit", *argv]


async def exited(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child without a thread where the kernel allows it. Returns Popen's returncode."""
    if not hasattr(os, "pidfd_open"):
        return await asyncio.to_thread(child.wait)
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    fd = os.pidfd_open(child.pid)
    loop.add_reader(fd, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return child.wait()


async def _reader(fd: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(limit=CHUNK)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", 0)
    )
    return stream, transport


async def _writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(fd, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _pump_out(
    source: asyncio.StreamReader,
    target: asyncssh.SSHWriter[bytes],
    count: Count,
    unwanted: asyncio.Event | None = None,
) -> None:
    """Bytes from the box to the client until the end of the pipe (EIO is the end of a terminal).

    Nothing is written once `unwanted` is set: the client's window may stay shut, and the channel could not close.
    """
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            if unwanted is not None and unwanted.is_set():
                return
            target.write(data)
            count(len(data), 0)
            await target.drain()


async def _pump_in(
    process: Process,
    target: asyncio.StreamWriter,
    count: Count,
    on_signal: Callable[[int], None],
    on_resize: Callable[[int, int, int, int], None],
) -> None:
    """Bytes, signals and window sizes from the client; its EOF closes the pipe."""
    broken = False
    while True:
        try:
            data = await process.stdin.read(CHUNK)
        except asyncssh.TerminalSizeChanged as change:
            on_resize(change.width, change.height, change.pixwidth, change.pixheight)
            continue
        except asyncssh.BreakReceived:
            on_signal(signal.SIGINT)
            continue
        except asyncssh.SignalReceived as received:
            number = getattr(signal, f"SIG{received.signal}", None)
            if number is not None:
                on_signal(number)
            continue
        except (OSError, asyncssh.Error):
            break
        if not data:
            break
        count(0, len(data))
        if broken:
            continue
        try:
            target.write(data)
            await target.drain()
        except OSError:
            broken = True
    with contextlib.suppress(OSError):
        target.close()


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _report(process: Process, code: int) -> None:
    if process.channel.is_closing():
        return
    if code >= 0:
        process.exit(code)
    else:
        process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))


async def run(process: Process, shell: Shell, count: Count, unwanted: asyncio.Event) -> None:
    """Serve one session to its end. `unwanted`: the client wants no more of stdout (`ssh box cat file | head`)."""
    try:
        if process.term_type is None:
            await _run_pipes(process, shell, count, unwanted)
        else:
            await _run_terminal(process, shell, count)
    except (asyncssh.Error, OSError):
        process.close()


def _spawn_on_pipes(process: Process, shell: Shell) -> tuple[subprocess.Popen[bytes], int, int, int]:
    """The child and our ends of its pipes: (stdin, stdout, stderr)."""
    stdin_read, stdin_write = os.pipe()
    stdout_read, stdout_write = os.pipe()
    stderr_read, stderr_write = os.pipe()
    try:
        child = subprocess.Popen(
            command_line(process.command, shell.file_limit),
            stdin=stdin_read,
            stdout=stdout_write,
            stderr=stderr_write,
            cwd=shell.cwd,
            env=session_env(shell, process),
            start_new_session=True,
        )
    except OSError:
        for fd in (stdin_write, stdout_read, stderr_read):
            os.close(fd)
        raise
    finally:
        for fd in (stdin_read, stdout_write, stderr_write):
            os.close(fd)
    return child, stdin_write, stdout_read, stderr_read


async def _run_pipes(process: Process, shell: Shell, count: Count, unwanted: asyncio.Event) -> None:
    child, to_child, from_out, from_err = _spawn_on_pipes(process, shell)
    out, out_pipe = await _reader(from_out)
    err, err_pipe = await _reader(from_err)
    feed = await _writer(to_child)

    async def show() -> None:
        """Pass stdout on until its end or until nobody wants it; then the process meets SIGPIPE."""
        pumping = asyncio.create_task(_pump_out(out, process.stdout, count, unwanted))
        closing = asyncio.create_task(unwanted.wait())
        try:
            await asyncio.wait({pumping, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pumping.cancel()
            closing.cancel()
            out_pipe.close()
            await asyncio.gather(pumping, closing, return_exceptions=True)

    showing = asyncio.create_task(show())
    complaining = asyncio.create_task(_pump_out(err, process.stderr, count))
    feeding = asyncio.create_task(
        _pump_in(process, feed, count, lambda number: _kill_group(child.pid, number), lambda *_: None)
    )
    ended = asyncio.create_task(exited(child))
    gone = asyncio.create_task(process.wait_closed())
    try:
        waiting: set[asyncio.Task[None] | asyncio.Task[int]] = {showing, complaining, ended}
        while waiting and not gone.done():
            done, _ = await asyncio.wait({*waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            waiting -= done
        if not waiting:
            _report(process, ended.result())
    finally:
        for task in (showing, complaining, feeding, gone):
            task.cancel()
        out_pipe.close()
        err_pipe.close()
        feed.close()
        await asyncio.gather(showing, complaining, feeding, gone, return_exceptions=True)
    await ended


def _spawn_on_terminal(process: Process, shell: Shell, slave: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        terminal.on_terminal(command_line(process.command, shell.file_limit)),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=shell.cwd,
        env={**session_env(shell, process), "SSH_TTY": os.ttyname(slave)},
        start_new_session=True,
    )


async def _run_terminal(process: Process, shell: Shell, count: Count) -> None:
    master, slave = terminal.open_terminal(process.term_modes, process.term_size)
    try:
        child = _spawn_on_terminal(process, shell, slave)
    except OSError:
        os.close(master)
        raise
    finally:
        os.close(slave)
    screen, screen_pipe = await _reader(os.dup(master))
    keys = await _writer(os.dup(master))

    def to_foreground(number: int) -> None:
        with contextlib.suppress(OSError):
            _kill_group(os.tcgetpgrp(master), number)

    def on_resize(width: int, height: int, pixwidth: int, pixheight: int) -> None:
        terminal.resize(master, width, height, pixwidth, pixheight)

    showing = asyncio.create_task(_pump_out(screen, process.stdout, count))
    typing = asyncio.create_task(_pump_in(process, keys, count, to_foreground, on_resize))
    ended = asyncio.create_task(exited(child))
    gone = asyncio.create_task(process.wait_closed())
    try:
        await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            await asyncio.wait({showing}, timeout=LAST_WORDS_S)
            _report(process, ended.result())
    finally:
        for task in (showing, typing, gone):
            task.cancel()
        screen_pipe.close()
        keys.close()
        os.close(master)
        await asyncio.gather(showing, typing, gone, return_exceptions=True)
    await ended
