"""What is run on an own machine, in plain sh. Everything of ours lies in `~/.gputui`. Pure.

`~/.gputui/lease` holds the label of the one run that has the machine; it is made with noclobber, so two
daemons cannot both have it. Each script ends with a line of its own: without that line an answer is no answer.
"""

from __future__ import annotations

import re
import shlex

END = "gputui-end"
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,200}")

READ = f"cat ~/.gputui/lease 2>/dev/null; echo {END}"

PROBE = f"""\
cat ~/.gputui/lease 2>/dev/null; echo --
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits 2>/dev/null; echo --
df -Pk ~ | tail -n 1; echo --
getconf _NPROCESSORS_ONLN; echo --
awk '/MemTotal/ {{print $2}}' /proc/meminfo; echo {END}
"""


def take(label: str) -> str:
    """Take the machine for a label, unless somebody has it; prints who has it now."""
    return f"umask 077; mkdir -p ~/.gputui/workspace && (set -C; echo {shlex.quote(label)} > ~/.gputui/lease) 2>/dev/null; {READ}"


def release(label: str) -> str:
    """End what still runs in our folder and remove it, if the machine is still this label's.

    A process is ours when it works inside `~/.gputui`; nothing else is touched.
    """
    return f"""\
[ "$(cat ~/.gputui/lease 2>/dev/null)" = {shlex.quote(label)} ] || {{ echo not-ours; echo {END}; exit 0; }}
ours=$(cd ~/.gputui && pwd -P)
for signal in TERM KILL; do
  left=
  for at in /proc/[0-9]*; do
    case "$(readlink "$at/cwd" 2>/dev/null)" in
      "$ours"|"$ours"/*) pid=${{at#/proc/}}; [ "$pid" = "$$" ] || {{ kill -$signal "$pid" 2>/dev/null && left=1; }} ;;
    esac
  done
  [ -n "$left" ] && sleep 1
done
cd / && rm -rf "$ours"
[ -e "$ours" ] && echo still-there
echo {END}
"""


def lines(output: str) -> list[str] | None:
    """An answer without its closing line; None when that line is missing."""
    found = output.splitlines()
    return found[:-1] if found and found[-1] == END else None


def lease(found: list[str]) -> str | None:
    """The label in an answer to READ; None when the machine is free. A strange one is kept as `?`."""
    if not found:
        return None
    return found[0] if len(found) == 1 and _LABEL.fullmatch(found[0]) else "?"


def sections(found: list[str]) -> list[list[str]]:
    """The parts of an answer to PROBE: lease, GPUs, disk, cores, memory."""
    parts: list[list[str]] = [[]]
    for line in found:
        if line == "--":
            parts.append([])
        else:
            parts[-1].append(line)
    return parts
