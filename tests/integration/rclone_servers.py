"""Real rclone servers on loopback, each a remote for the test: S3 and WebDAV and SFTP, with and without hashes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from gpuwatch.mirror.rclone import find_rclone

KINDS = ("s3", "webdav", "sftp", "plain")
"""`plain` is WebDAV without hashes: rclone can compare nothing but sizes there."""


class Server:
    """One `rclone serve` over a folder."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind, self.root = kind, root
        self.rclone = find_rclone()
        assert self.rclone is not None
        root.mkdir(parents=True, exist_ok=True)
        (root / "bucket").mkdir(exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(root.parent), "RCLONE_CONFIG": str(root.parent / "rclone.conf"),
            "XDG_CACHE_HOME": str(root.parent / "cache"),
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def remote(self) -> str:
        return "sim:bucket"

    def start(self) -> None:
        more = {
            "s3": ["s3", "--auth-key", "ACCESSKEY,SECRETKEY"], "webdav": ["webdav", "--etag-hash", "MD5"], "plain": ["webdav"],
            "sftp": ["sftp", "--user", "u", "--pass", "p"],
        }[self.kind]  # fmt: skip
        argv = [str(self.rclone), "serve", *more, "--addr", f"127.0.0.1:{self.port}", str(self.root)]
        self.process = subprocess.Popen(
            argv,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        seen = b""
        for line in self.process.stderr:
            seen += line
            found = re.search(rb"(?:\[http://|listening on )127\.0\.0\.1:(\d+)", line)
            if found is not None:
                self.port = int(found[1])
                break
        else:
            raise AssertionError(seen.decode())
        self.drain = threading.Thread(target=self.process.stderr.read, daemon=True)
        self.drain.start()
        self.configure()

    def configure(self, **changes: str) -> None:
        obscured = subprocess.run(
            [str(self.rclone), "obscure", "p"], capture_output=True, text=True, check=True
        ).stdout.strip()
        values = {
            "s3": {"type": "s3", "provider": "Rclone", "endpoint": f"http://127.0.0.1:{self.port}", "access_key_id": "ACCESSKEY",
                   "secret_access_key": "SECRETKEY", "use_multipart_uploads": "false"},
            "webdav": {"type": "webdav", "url": f"http://127.0.0.1:{self.port}", "vendor": "rclone"},
            "plain": {"type": "webdav", "url": f"http://127.0.0.1:{self.port}", "vendor": "other"},
            "sftp": {"type": "sftp", "host": "127.0.0.1", "port": str(self.port), "user": "u", "pass": obscured, "shell_type": "unix"},
        }[self.kind] | changes  # fmt: skip
        text = "[sim]\n" + "".join(f"{k} = {v}\n" for k, v in values.items())
        (self.root.parent / "rclone.conf").write_text(text)

    def file(self, path: str) -> Path:
        return self.root / "bucket" / path

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.drain.join()
            assert self.process.stderr is not None
            self.process.stderr.close()
            self.process = None


@contextlib.contextmanager
def serving(kind: str, home: Path) -> Iterator[Server]:
    server = Server(kind, home / "served")
    try:
        server.start()
        yield server
    finally:
        server.stop()
