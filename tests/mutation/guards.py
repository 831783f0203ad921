"""Guards of the shell and of the edges, by hand: what each one keeps out, how it is taken away, who must notice.

A guard is named by the text that it is made of, which must stand exactly once in its module:
when the code changes so that it does not, `make mutants` (and a unit test) says so, and the
entry is changed or removed with the guard.
"""

from __future__ import annotations

from dataclasses import dataclass

_UNIT = "tests/unit/"
_CORE = "tests/unit/core/test_core_"
_RACES = ("tests/simulation/test_races.py",)
_SWEEPS = ("tests/simulation/test_sweeps.py",)


class Stale(Exception):
    """An anchor that is no longer in the code: the guard was changed or is gone, and the list must say which."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard and how it is taken away: `old` must stand exactly once in the module."""

    module: str
    guard: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def change(self) -> str:
        """For the table."""
        return f"{_line(self.old)} → {_line(self.new) or 'nothing'}"


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 150 else f"{text[:110]} … {text[-30:]}"


def applied(guard: Guard, source: str) -> str:
    """The module's source without the guard. Raises Stale."""
    count = source.count(guard.old)
    if count != 1:
        raise Stale(f"{guard.module}: {guard.old!r} stands there {count} times, not once ({guard.guard})")
    return source.replace(guard.old, guard.new)


def _of(module: str, tests: tuple[str, ...], *rows: tuple[str, str, str]) -> tuple[Guard, ...]:
    return tuple(Guard(module, guard, old, new, tests) for guard, old, new in rows)


def _core(*names: str) -> tuple[str, ...]:
    return tuple(f"{_CORE}{name}.py" for name in names)


_W = "watchdog/gpuwatch/"
_P = "providers/gpuproviders/"

VAULT = (
    *_of(
        f"{_W}vault/layout.py",
        _core("guards", "vault"),
        ("no way up out of the vault", 'if part in ("", ".", "..")', 'if part in ("", ".")'),
        ("no empty part of a path", 'if part in ("", ".", "..")', 'if part in (".", "..")'),
        ("no NUL in a name", 'or b"\\0" in raw or', "or"),
        ("no absolute path", ' or raw.startswith(b"/"):', ":"),
        ("no endless path", "len(raw) > _MAX_PATH or ", ""),
        ("no endless part of a path", " or len(os.fsencode(part)) > 255", ""),
        ("the vault's own names, in any case", "parts[0].casefold() in _RESERVED", "parts[0] in _RESERVED"),
        ("the vault's own names", "    if parts[0].casefold() in _RESERVED:", "    if False:"),
        (
            "a folder with files and no marker is no vault",
            "if self.root.exists() and any(self.root.iterdir()):",
            "if False:",
        ),
        (
            "without its marker it is not the right disk",
            "if not (self.root / MARKER).is_file():",
            "if False:",
        ),
        ("a link is no copy", "not target.is_symlink() and ", ""),
        ("a copy of another size is none", " and target.stat().st_size == size", ""),
        (
            "new folders are durable",
            "        folder.mkdir(exist_ok=True)\n        fsync_folder(folder.parent)\n",
            "        folder.mkdir(exist_ok=True)\n",
        ),
    ),
    *_of(
        f"{_W}vault/sink.py",
        _core("guards", "vault"),
        ("no final name without proof", "        if not self._proved:\n", "        if False:\n"),
        ("durable before it is read back", "            os.fdatasync(self._descriptor)\n", ""),
        (
            "no link in the place of a part",
            "os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW",
            "os.O_RDWR | os.O_CREAT | os.O_CLOEXEC",
        ),
        (
            "one writer of a part",
            "            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
            "",
        ),
        (
            "new folders above it are durable",
            "        make_folder(target.parent)\n",
            "        target.parent.mkdir(parents=True, exist_ok=True)\n",
        ),
        (
            "a write after the proof voids it",
            "        self._proved = False\n        self._claim(at, at + sum(",
            "        self._claim(at, at + sum(",
        ),
        (
            "a hole after the proof voids it",
            "        self._proved = False\n        self._claim(at, at + size)",
            "        self._claim(at, at + size)",
        ),
        (
            "what has been read back is not written again",
            "                start < self._arrived\n                or end > self._size\n",
            "                end > self._size\n",
        ),
        (
            "what is here beyond a gap is not written again",
            "                or any(s < end and start < e for s, e in self._islands.items())\n",
            "",
        ),
        ("nothing is written beyond the file's end", "                or end > self._size\n", ""),
        (
            "a file with gaps is not proved",
            "            if self._arrived != self._size:\n",
            "            if False:\n",
        ),
        (
            "a failed check is no proof",
            "            if self._failed is not None:\n                raise self._failed\n            if self._read",
            "            if self._read",
        ),
        (
            "a failed check stops the writing",
            "            if self._failed is not None:\n                raise self._failed\n            if (\n",
            "            if (\n",
        ),
        (
            "what lies beyond the file's end goes",
            "            os.ftruncate(self._descriptor, size)  #",
            "            pass  #",
        ),
        (
            "a part that begins anew keeps nothing",
            "            if not have:\n                os.ftruncate(self._descriptor, 0)\n",
            "",
        ),
        (
            "longer on disk than written is a failure",
            " or os.fstat(self._descriptor).st_size != self._size:",
            ":",
        ),
        (
            "the name is durable",
            "        fsync_folder(target.parent)\n        return os.fstat",
            "        return os.fstat",
        ),
        (
            "a part of another version is not resumed",
            '            or note.get("identity") != list(identity)\n',
            "",
        ),
        ("a part of another boot is not resumed", '            or note.get("boot_id") != boot_id\n', ""),
        (
            "a part longer than the file is not resumed",
            "<= min(size, identity[0]) else ()",
            "<= size else ()",
        ),
        (
            "a part shorter than its note is not resumed",
            "<= min(size, identity[0]) else ()",
            "<= identity[0] else ()",
        ),
        ("a note's spans are in order", "if not (spans[-1][1] if spans else -1) < start < end:", "if False:"),
    ),
    *_of(
        f"{_W}vault/disk.py",
        _core("guards", "vault"),
        (
            "shorter on disk than written is a failure",
            "            if not here:\n",
            "            if not here:\n                return\n            if False:\n",
        ),
        ("the disk is read, not the cache", "        if self._may_direct:\n", "        if False:\n"),
        (
            "only a file system that cannot is excused",
            "            if error.errno != errno.EINVAL:\n                raise\n",
            "",
        ),
        (
            "a small file that the cache keeps is read past it",
            "        if _is_cached(descriptor, self._buffer):\n",
            "        if False:\n",
        ),
    ),
    *_of(
        f"{_W}vault/batch.py",
        _core("guards", "vault_names"),
        (
            "small files are durable before they are read back",
            "        sync_all(tray.descriptor, names)\n",
            "",
        ),
        (
            "a small file's two hashes must agree",
            "                if sha256 == entry.sha256\n",
            "                if sha256\n",
        ),
        (
            "a small file without proof gets no name",
            "            if isinstance(outcomes[entry.key], Landed):\n",
            "            if True:\n",
        ),
        (
            "the names of small files are durable",
            "                fsync_folder(Path(folder))\n        self._done",
            "                pass\n        self._done",
        ),
        (
            "the names of small files in many folders are durable",
            "            sync_all(self._descriptor, [], folders)\n",
            "            pass\n",
        ),
        (
            "a name that this disk cannot keep hurts no other",
            "                    if not is_unkeepable(error):\n",
            "                    if True:\n",
        ),
        (
            "what is in the way goes aside",
            "                if attempt or not is_in_the_way(error):\n",
            "                if True:\n",
        ),
    ),
    *_of(
        f"{_W}vault/names.py",
        _core("vault_names"),
        (
            "names of one file on this disk",
            "        if (other := kept.get(whole)) is not None:\n",
            "        if (other := kept.get(whole)) is not None and False:\n",
        ),
        (
            "no file where a folder stands",
            "        elif (other := folders.get(whole)) is not None:\n",
            "        elif (other := folders.get(whole)) is not None and False:\n",
        ),
        (
            "no folder where a file stands",
            "next((kept[k] for k in above if k in kept), None)) is not None:",
            "next((kept[k] for k in above if k in kept), None)) is not None and False:",
        ),
        (
            "accents are one on disks that fold",
            'unicodedata.normalize("NFC", part).casefold()',
            "part.casefold()",
        ),
    ),
    *_of(
        f"{_W}vault/receipt.py",
        _core("guards", "vault", "verify"),
        ("a file called - is not standard input", 'path = "./-" if path == "-" else path', "pass"),
        (
            "odd names are escaped for sha256sum",
            'if "\\\\" in path or "\\n" in path or "\\r" in path:',
            "if False:",
        ),
        ("its name is durable", "    fsync_folder(folder)\n", ""),
        (
            "the same files make the same receipt",
            "rows = sorted(copies, key=lambda c: os.fsencode(c.path))",
            "rows = list(copies)",
        ),
        ("the receipt is durable before it counts", "        os.fsync(file.fileno())\n", ""),
        (
            "whole under its name or not at all",
            "    temporary.replace(path)\n",
            "    path.write_bytes(temporary.read_bytes())\n    temporary.unlink()\n",
        ),
        (
            "its name is the hash of its bytes",
            "    digest = hashlib.sha256(text).hexdigest()",
            "    digest = hashlib.sha256(run_id.encode()).hexdigest()",
        ),
        (
            "a part's name is the hash of its bytes",
            "    sha256 = hashlib.sha256(text).hexdigest()",
            '    sha256 = hashlib.sha256(text + b" ").hexdigest()',
        ),
    ),
    *_of(
        f"{_W}vault/proofs.py",
        _core("guards", "verify"),
        ("a receipt has an end", "    if len(data) > MAX_RECEIPT:\n", "    if False:\n"),
        ("reading has an end", "            if len(found) > limit:\n                break\n", ""),
        (
            "paths of a receipt are checked like a box's",
            "relative_parts(file.path)",
            'tuple(file.path.split("/"))',
        ),
        ("no file twice", "    if len({p.path for p in promises}) != len(promises):\n", "    if False:\n"),
        ("NaN is no number", ", parse_constant=_no_number)", ")"),
        (
            "nested without end is no receipt",
            "except (ValueError, RecursionError) as error:\n        raise BadReceipt",
            "except ValueError as error:\n        raise BadReceipt",
        ),
        (
            "the newest word counts",
            "sorted(proofs, key=lambda p: (p.written_at, p.digest))",
            "sorted(proofs, key=lambda p: (-p.written_at, p.digest))",
        ),
        (
            "a receipt and its parts hash to their names",
            "    if hashlib.sha256(data).hexdigest() != sha256:\n",
            "    if False:\n",
        ),
        (
            "a later format is not guessed at",
            "    if isinstance(found, str) and found not in (FORMAT, PARTED):\n",
            "    if False:\n",
        ),
        (
            "a part has as many files as the receipt says",
            "        if len(files) != named.files:\n",
            "        if False:\n",
        ),
    ),
    *_of(
        f"{_W}vault/reread.py",
        _core("guards", "verify", "scrub"),
        (
            "no link on the way to a file",
            "_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW",
            "_FOLDER = os.O_RDONLY | os.O_DIRECTORY",
        ),
        (
            "no link in a file's place",
            "_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
            "_FILE = os.O_RDONLY | os.O_NONBLOCK",
        ),
        (
            "a pipe in a file's place is not waited for",
            "os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY",
            "os.O_NOFOLLOW | os.O_NOCTTY",
        ),
        (
            "only regular files",
            "        if not stat.S_ISREG(os.fstat(descriptor).st_mode):\n",
            "        if False:\n",
        ),
        ("shorter is truncated", "    if seen.size < size:\n", "    if False:\n"),
        ("longer is damaged", "if seen.size > size or seen.sha256 != sha256:", "if seen.sha256 != sha256:"),
        ("other bytes are damaged", "if seen.size > size or seen.sha256 != sha256:", "if seen.size > size:"),
    ),
    *_of(
        f"{_W}vault/verify.py",
        _core("guards", "verify"),
        (
            "damage is damage whatever else is well",
            "        if any(f.kind in DAMAGE for f in self.findings):\n",
            "        if False:\n",
        ),
        (
            "a run without receipts is not proved",
            "if self.findings or not self.receipts else",
            "if self.findings else",
        ),
        ("a vault without runs proves nothing", " or {Verdict.PARTIAL}", " or {Verdict.GOOD}"),
        (
            "what no receipt names is told",
            "        if name not in promised and name not in {LOG, LOG_CLOCK}:\n",
            "        if False:\n",
        ),
        (
            "no marker and no receipt is no vault",
            "    if not (root / MARKER).is_file() and not any(",
            "    if False and not any(",
        ),
        ("a run that is not there is no good run", "    if unknown:\n", "    if False:\n"),
        ("a run's folder is no link", "    if folder.is_symlink():\n", "    if False:\n"),
        ("links below are not followed", "entry.is_dir(follow_symlinks=False)", "entry.is_dir()"),
        (
            "an interrupted reading proves nothing",
            "                if not count(size):\n",
            "                if not count(size) and False:\n",
        ),
        (
            "a thread's fault is no silence",
            "        for future in futures:\n            future.result()\n",
            "",
        ),
        (
            "the list for sha256sum must say the same",
            "        if found.digest() != right.digest():\n",
            "        if False:\n",
        ),
    ),
)

BOX = (
    *_of(
        f"{_W}box/frames.py",
        _core("guards", "frames"),
        ("a line has an end", "> MAX_LINE:\n", "> MAX_LINE and False:\n"),
        ("sizes have bounds", "if not 0 <= size < 1 << 62 or", "if"),
        ("true is no number", "isinstance(value, int) and not isinstance(value, bool)", "isinstance(value, int)"),
        ("JSON nested without end", "except (ValueError, RecursionError) as error:\n        raise FrameError", "except ValueError as error:\n        raise FrameError"),
        ("what a box says is cleaned", "return clean(value, 200) if isinstance(value, str)", "return value if isinstance(value, str)"),
        ("a frame has an end", "if opened is None or (length > MAX_FRAME and not hole) or", "if opened is None or"),
        ("no more content than was asked for", "        if opened.start + self._sent > opened.end:\n", "        if False:\n"),
        ("answers come in the order of the questions", " or index != question.index:", ":"),
        ("rows of a pack come in the order of the questions", " or row[0] != expected:", ":"),
        ("no more answers than questions", "        if question is None or not _is_int(index)", "        if not _is_int(index)"),
        ("no more rows than questions", "not 0 < len(rows) <= len(expected)", "not 0 < len(rows)"),
        ("no hash that was not asked for", " or not 0 <= index < expect:", ":"),
        ("the part that was asked for and no other", '        if (value.get("from"), value.get("to")) != (start, end) or not _is_int(value["from"]):\n', "        if False:\n"),
        ("a hash is a hash", " or not _SHA256.fullmatch(value):", ":"),
        ("a part that was not all sent is none", "        if error is None and self._open.start + self._sent != self._open.end:\n", "        if False:\n"),
        ("a pack has an end", "        if total > MAX_PACK:\n", "        if False:\n"),
    ),
    *_of(
        f"{_W}box/sentinel.py",
        _core("guards", "box_answers"),
        ("a listing counts only with its end", 'if end.get("end") != len(lines) or', "if"),
        ("a listing that breaks off is none", '    if not lines or lines.pop() != b"":\n', "    if lines.pop() and False:\n"),
        ("a listing has an end", "if len(lines) > MAX_FILES or", "if"),
        ("no workspace that is no path", '        or not place.startswith("/")\n', ""),
        ("no workspace with control characters", "        or not place.isprintable()\n", ""),
        ("no phase that we do not know", 'if phase not in ("none", "starting", "running", "ended", "vanished"):', "if False:"),
        ("a report names its boot", 'if at is None or not isinstance(boot, str) or not boot.isalnum():\n        raise BoxFault("a report', 'if at is None:\n        raise BoxFault("a report'),
        ("what a box was told is in no message", '                problem = problem.replace(secret.encode(), b"[secret]")\n', "                pass\n"),
        ("no file twice", "        if path in files or path in links:\n", "        if False:\n"),
        ("no NUL in a name", '        if "\\0" in path:\n', "        if False:\n"),
        ("no name that no file system tells", "        if not path.isascii() and not _is_name(path):\n", "        if False:\n"),
        ("a link out of what is promised is told", "stray=target not in files and target not in folders", "stray=False"),
        ("what the box could not list is told", "        problems=tuple(clean(str(p), 200) for p in problems[:100]),\n", "        problems=(),\n"),
    ),
    *_of(
        f"{_W}box/fetch.py",
        _core("guards"),
        ("the two hashes must agree", "            elif sink.finish() != sha256:\n", '            elif sink.finish() == "":\n'),
        ("what the box hashed is what was listed", "            if identity != want.identity:\n", "            if False:\n"),
        ("a file that failed is not named", "        if outcome is None and file.hashed is not None:\n", "        if file.hashed is not None:\n"),
    ),
    *_of(
        f"{_W}box/landing.py",
        _core("guards"),
        ("a file that changed since it was listed is none", "        if head.identity != part.file.want.identity:\n", "        if False:\n"),
        ("a file that changed while it was sent is none", "        elif trailer.identity != file.want.identity:\n", "        elif False:\n"),
        ("a part that the box could not send is none", "        if trailer.error is not None:\n", "        if False:\n"),
        ("a small file that changed is none", "        if item.identity != want.identity:\n", "        if False:\n"),
    ),
)  # fmt: skip

SPEC = (
    *_of(
        f"{_W}spec/values.py",
        _core("guards", "spec"),
        ("paths stay in the work folder", '".." in path.parts', "False"),
        ("no absolute path", "if path.is_absolute() or", "if"),
        ("no home folder", ' or value.startswith("~")', ""),
        ("not the work folder itself", " or not path.parts:", ":"),
        ("no NUL in a path", 'if not isinstance(value, str) or not value or "\\0" in value or len(value) > 1024:', "if not isinstance(value, str) or not value or len(value) > 1024:"),
        ("a checkpoint folder has no wildcards", '    if any(c in path for c in "*?["):\n', "    if False:\n"),
        ("true is no whole number", "if isinstance(value, bool) or not isinstance(value, int) or not low", "if not isinstance(value, int) or not low"),
        ("a number in its bounds", " or not low <= value <= high:", ":"),
        ("a disk that is large enough", "    if size < 8_000_000_000:\n", "    if False:\n"),
        ("names of variables", "    if not all(_ENV.fullmatch(n) for n in names):\n", "    if False:\n"),
        ("no NUL in a variable", ' and "\\0" not in str(v)', ""),
        ("a command that is one", "not value.strip() or ", ""),
        ("a probability is one", "not isinstance(value, int | float) or not 0 <= value <= 1:", "not isinstance(value, int | float):"),
        ("only providers that exist", "if not names or not all(n in PROVIDERS for n in names):", "if not names:"),
    ),
    *_of(
        f"{_W}spec/read.py",
        _core("guards", "spec"),
        ("unknown keys are errors", "        for key, value in self._values.items():\n", "        for key, value in ():\n"),
        ("a spec has an end", "    if len(text) > MAX_BYTES:\n", "    if False:\n"),
        ("a run promises something or says that it does not", '        and not any(p.key.startswith(("artifacts", "checkpoints")) for p in problems)\n    ):\n', "        and False\n    ):\n"),
        ("[job] or [train], not both", "    if job is not None and train is not None:\n", "    if False:\n"),
        ("uploads exist", "if base is not None and not _exists(base / path):", "if False:"),
        ("brackets nested without end", "except RecursionError as error:\n        raise SpecError", "except ZeroDivisionError as error:\n        raise SpecError"),
    ),
    *_of(
        f"{_W}spec/units.py",
        _core("spec"),
        ("sizes have an end", "    if size > 10**16:\n", "    if False:\n"),
        ("no duration of nothing or for ever", "    if not 0 < seconds <= _LONGEST:\n", "    if False:\n"),
        ("a price above nothing", "if amount is None or amount <= 0:", "if amount is None:"),
    ),
)  # fmt: skip

VAST = (
    *_of(
        f"{_P}vast/parse.py",
        _core("guards", "vast_parse"),
        ("an id is a positive number", "    if not 0 < value < 10**18:\n", "    if False:\n"),
        ("true is no id", "    if isinstance(value, bool) or not isinstance(value, int | str):\n        raise", "    if not isinstance(value, int | str):\n        raise"),
        ("digits, and not too many", '        if not value.isascii() or not value.isdigit() or len(value) > 18:\n            raise Malformed(f"{what} is not a number', '        if False:\n            raise Malformed(f"{what} is not a number'),
        ("a machine that runs has no trouble", "    if power is Power.RUNNING:\n        return None", "    if False:\n        return None"),
        ("an unknown state is unknown, not off", "_POWER.get(actual, Power.UNKNOWN) if", "_POWER.get(actual, Power.OFFLINE) if"),
        ("a label has an end", "and label and len(label) <= 256 else None", "and label else None"),
        ("an offer without price is none", "if gpu is None or not count or price is None:", "if gpu is None or not count:"),
    ),
    *_of(
        f"{_P}checked.py",
        (*_core("vast_parse"), "tests/unit/providers/test_runpod_parse.py"),
        ("a negative price is none", "return None if amount is None or amount < 0 else amount", "return amount"),
        ("numbers have bounds", "return float(value) if low <= value <= high else None", "return float(value)"),
        ("texts are cleaned and cut", "return scrub(value.strip())[:limit]", "return value.strip()"),
        ("an address is an address", " and _HOST.fullmatch(value.strip()) else None", " else None"),
        ("a port is a port", "return value if 0 < value < 65536 else None", "return value"),
    ),
    *_of(
        f"{_P}vast/adapter.py",
        _core("vast_plain", "vast_adapter", "vast_hostile", "permit"),
        ("a listing is as long as it says", "total != len(rows):", "False:"),
        ("a page must be one", 'body.get("success") is True and "next_token" in body', '"next_token" in body'),
        ("a page that brings nothing new ends the reading", " or len(rows) == before:", ":"),
        ("pages do not go in circles", "or following == token or", "or"),
        ("a page has an end", "if not isinstance(page, list) or len(page) > _MAX_ROWS:", "if not isinstance(page, list):"),
        ("a search has an end", "if not isinstance(rows, list) or len(rows) > _MAX_ROWS:", "if not isinstance(rows, list):"),
        ("an unreadable market is not an empty one", "        if rows and not offers:\n", "        if False:\n"),
        ("a create without a number is ambiguous", "        except Malformed as error:\n            raise Ambiguous(", "        except Malformed as error:\n            raise Refused("),
        ("only Vast's own words say that there is none", '            if error.code in ("not_found", "no_such_instance"):\n                return None\n', "            return None\n"),
        ("the answer is about the machine that was asked for", "        if row.instance_id != instance_id:\n", "        if False:\n"),
        ("a destroy spends a permit first", "        permit.spend()\n        try:\n", "        try:\n"),
        ("a stop spends a permit first", "        permit.spend()\n        await", "        await"),
        ("a refused destroy is not accepted", '            if error.code not in ("not_found", "no_such_instance"):\n                raise\n', "            pass\n"),
        ("filters that Vast forgot", "                if _fits(offer, query):\n", "                if True:\n"),
        ("a queued start is taken back", '            if error.code == "resources_unavailable":\n', "            if False:\n"),
        ("the log's address is no file", 'not url.startswith(("https://", "http://127.0.0.1:"))', "not url"),
        ("whatever the log's address does", "    except (OSError, HTTPException, ValueError):", "    except OSError:"),
        ("rather refused than stopped and billed", '            "cancel_unavail": True,\n', ""),
    ),
    *_of(
        f"{_P}vast/transport.py",
        _core("vast_adapter", "vast_hostile", "vast_client"),
        ("a write is sent once", "answer = await self._call(method, path, endpoint, kwargs, attempts=1)", "answer = await self._call(method, path, endpoint, kwargs, attempts=3)"),
        ("no answer to a write is ambiguous", '            raise Ambiguous("Vast did not answer;', '            raise Refused("Vast did not answer;'),
        ("an answer that names a contract is no refusal", "        if write and made is not None:\n", "        if False:\n"),
        ("a contract's number is one", "    except Malformed:\n        return None\n", "    except Malformed:\n        return str(made)\n"),
        ("a strange answer to a write is ambiguous", "        elif write:\n            error = Ambiguous(", "        elif write:\n            error = Refused("),
        ("a timeout status says nothing", "            and answer.status not in (408, 409, 425)\n", ""),
        ("HTML is no refusal", "            and isinstance(answer.body, dict)\n        ):\n            error = Refused", "        ):\n            error = Refused"),
        ("success: false is a refusal", '            if body.get("success") is not False:\n', "            if True:\n"),
        ("the key is in no message", 'message = scrub(f"Vast: {text}" if text else f"Vast answered HTTP {answer.status}", key)', 'message = f"Vast: {said}"[:500]'),
        ("the key is in no code", 'code = scrub(body["error"], key)[:100]', 'code = body["error"]'),
        ("how long to wait, within reason", "or not 0 <= value <= 86_400:", "or not 0 <= value:"),
    ),
    *_of(
        f"{_P}vast/client.py",
        _core("vast_client"),
        ("an answer has an end", "if len(found) > self._most or", "if"),
        ("an answer comes in time", " or time.monotonic() > until:", ":"),
        ("a write is sent once", "                if not left:\n                    raise\n", "                if left < -3:\n                    raise\n"),
    ),
    *_of(
        f"{_P}errors.py",
        _core("vast_adapter", "vast_hostile"),
        ("no secret in a message", '            text = text.replace(secret, "[key]")\n', "            pass\n"),
        ("no terminal escape in a message", 'c if c.isprintable() else "?" if c not in "\\n\\t" else " " for c', "c for c"),
        ("a message has an end", "for c in text[:500])", "for c in text)"),
    ),
)  # fmt: skip

DAEMON = (
    *_of(
        f"{_W}daemon/destroying.py",
        _RACES,
        ("a wish taken back while we looked", "        # while we looked, the wish may have been taken back; from here to the event the loop does not turn\n        if not isinstance(decide(ctx.ledger.runs[run.id], spec), Destroy):\n            return\n", ""),
        ("somebody else's machine is not destroyed", "        if why is not None:\n", "        if False:\n"),
    ),
    *_of(
        f"{_W}daemon/renting.py",
        (*_RACES, "tests/unit/test_daemon_pure.py"),
        ("an answer may name somebody else's machine", "    if listed is not None and listed.label != machine.label:\n", "    if False:\n"),
        ("an offer that disappointed is not taken again", '        if f"{o.provider}:offer:{o.offer_id}" not in run.avoid\n        and', "        if"),
        ("a machine that disappointed is not taken again", '        and f"{o.provider}:machine:{o.machine_id}" not in run.avoid\n', ""),
    ),
    *_of(
        f"{_W}daemon/preparing.py",
        (*_RACES, "tests/unit/test_daemon_pure.py"),
        ("nothing runs on somebody else's machine", "if seen is not None and (why := foreign(ctx, machine, machine.instance_id)) is not None:", "if False:\n            why = None"),
        ("a box without the rented GPUs", "    if len(facts.gpus) < spec.gpu.count:\n", "    if False:\n"),
    ),
    *_of(
        f"{_W}spec/uploads.py",
        ("tests/unit/test_daemon_pure.py",),
        ("uploads stay in the spec's folder", "        if not start.resolve().is_relative_to(base.resolve()):\n", "        if False:\n"),
    ),
    *_of(
        f"{_W}daemon/fleet.py",
        ("tests/unit/test_fleet_absence.py", *_RACES),
        ("a look-up counts between two listings of our account", "                        if after.by_id(instance_id) is not None:\n                            return None\n", ""),
        ("a machine that is seen again is not gone", "            if present:\n                return None\n", ""),
    ),
    *_of(
        f"{_W}daemon/actor.py",
        _RACES,
        ("a job that still runs has not ended", '        if state.phase in ("starting", "running"):\n', "        if False:\n"),
    ),
    *_of(
        f"{_W}daemon/server.py",
        ("tests/unit/test_daemon_socket.py",),
        ("a line that cannot be read is answered", "            except wire.UNREADABLE as error:\n                self._send(", "            except ZeroDivisionError as error:\n                self._send("),
        ("calls wait for their turn", "                await self._turns.acquire()\n", ""),
        ("streams have an end", "            if len(self._streams) >= MAX_STREAMS:\n", "            if False:\n"),
        ("words that cannot be read are answered", "    except wire.UNREADABLE as error:\n        raise CallFailed", "    except ZeroDivisionError as error:\n        raise CallFailed"),
        ("the socket is ours alone", "    old = os.umask(0o177)\n", "    old = os.umask(0)\n"),
    ),
)  # fmt: skip

GUARDS: tuple[Guard, ...] = (*VAULT, *BOX, *SPEC, *VAST, *DAEMON)
