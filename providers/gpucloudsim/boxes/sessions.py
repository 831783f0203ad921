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
import fcntl
import os
import signal
import struct
import subprocess
import termios
import tty
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncssh

CHUNK = 256 * 1024
ACCEPTED_ENV = ("LANG", "LC_", "COLORTERM")
"""sshd's usual AcceptEnv: other variables sent by a client are ignored."""

Count = Callable[[int, int], None]
"""Called with bytes (from the box, to the box)."""


@dataclass(frozen=True)
class Shell:
    """What a session starts with."""

    env: Mapping[str, str]
    cwd: Path
    file_limit: int | None
    """Largest file the processes may write, in bytes (stands in for a full disk)."""


def session_env(shell: Shell, process: asyncssh.SSHServerProcess[bytes]) -> dict[str, str]:
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


def _shell_path() -> str:
    return "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"


def _argv(command: str | None) -> list[str]:
    shell = _shell_path()
    return [shell, "-c", command] if command is not None else [shell]


def _limits(file_limit: int | None) -> Callable[[], None] | None:
    if file_limit is None:
        return None
    limit = file_limit

    def apply() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return apply


def _control_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _resize(fd: int, width: int, height: int, pixwidth: int, pixheight: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, pixwidth, pixheight))


async def exited(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child without a thread where the kernel allows it. Returns Popen's returncode."""
    if hasattr(os, "pidfd_open"):
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        fd = os.pidfd_open(child.pid)

        def ready() -> None:
            if not done.done():
                done.set_result(None)

        loop.add_reader(fd, ready)
        try:
            await done
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        return child.wait()
    return await asyncio.to_thread(child.wait)


async def _reader(fd: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(limit=CHUNK)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", 0))
    return stream, transport


async def _writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(fd, "wb", 0))
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _pump_out(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes], count: Count) -> None:
    """Bytes from the box to the client until the end of the pipe (EIO is the end of a terminal)."""
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            target.write(data)
            count(len(data), 0)
            await target.drain()


async def _pump_in(
    process: asyncssh.SSHServerProcess[bytes],
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


def _report(process: asyncssh.SSHServerProcess[bytes], code: int) -> None:
    if process.channel.is_closing():
        return
    if code >= 0:
        process.exit(code)
    else:
        process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))


async def run(process: asyncssh.SSHServerProcess[bytes], shell: Shell, count: Count) -> None:
    """Serve one session to its end."""
    try:
        if process.term_type is None:
            await _run_pipes(process, shell, count)
        else:
            await _run_terminal(process, shell, count)
    except (asyncssh.Error, OSError):
        process.close()


async def _run_pipes(process: asyncssh.SSHServerProcess[bytes], shell: Shell, count: Count) -> None:
    child = subprocess.Popen(
        _argv(process.command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=shell.cwd,
        env=session_env(shell, process),
        start_new_session=True,
        preexec_fn=_limits(shell.file_limit),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    out, out_pipe = await _reader(os.dup(child.stdout.fileno()))
    err, err_pipe = await _reader(os.dup(child.stderr.fileno()))
    feed = await _writer(os.dup(child.stdin.fileno()))
    for stream in (child.stdin, child.stdout, child.stderr):
        stream.close()

    async def outputs() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump_out(out, process.stdout, count))
            group.create_task(_pump_out(err, process.stderr, count))

    pumping = asyncio.ensure_future(outputs())
    feeding = asyncio.ensure_future(_pump_in(process, feed, count, lambda n: _kill_group(child.pid, n), lambda *_: None))
    gone = asyncio.ensure_future(process.wait_closed())
    ended = asyncio.ensure_future(exited(child))
    try:
        await asyncio.wait({gone, asyncio.gather(pumping, ended)}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done() and not gone.done():
            _report(process, ended.result())
    finally:
        for task in (pumping, feeding, gone):
            task.cancel()
        out_pipe.close()
        err_pipe.close()
        feed.close()
        await asyncio.gather(pumping, feeding, gone, return_exceptions=True)
    await ended


async def _run_terminal(process: asyncssh.SSHServerProcess[bytes], shell: Shell, count: Count) -> None:
    master, slave = os.openpty()
    _resize(master, *process.term_size)
    env = session_env(shell, process)
    if process.term_modes.get(asyncssh.PTY_ECHO, 1) == 0:
        tty.setraw(slave)
    child = subprocess.Popen(
        _argv(process.command),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=shell.cwd,
        env={**env, "SSH_TTY": os.ttyname(slave)},
        start_new_session=True,
        preexec_fn=_control_terminal,
    )
    os.close(slave)
    screen, screen_pipe = await _reader(os.dup(master))
    keys = await _writer(os.dup(master))

    def foreground(number: int) -> None:
        with contextlib.suppress(OSError):
            _kill_group(os.tcgetpgrp(master), number)

    showing = asyncio.ensure_future(_pump_out(screen, process.stdout, count))
    typing = asyncio.ensure_future(_pump_in(process, keys, count, foreground, lambda *size: _resize(master, *size)))
    gone = asyncio.ensure_future(process.wait_closed())
    ended = asyncio.ensure_future(exited(child))
    try:
        await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            await asyncio.wait({showing}, timeout=0.3)
            _report(process, ended.result())
    finally:
        for task in (showing, typing, gone):
            task.cancel()
        screen_pipe.close()
        keys.close()
        os.close(master)
        await asyncio.gather(showing, typing, gone, return_exceptions=True)
    await ended
