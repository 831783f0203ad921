"""Check a run directory with the standard library alone: ``python check_run.py RUNDIR``."""

import hashlib
import json
import sys
from pathlib import Path


def check(run: Path) -> list[str]:
    """What is wrong with the run directory; empty when everything it promises is there."""
    problems: list[str] = []
    hashes: dict[str, str] = {}
    for manifest_path in sorted(run.glob("ckpt/step-*/MANIFEST.json")):
        directory, raw = manifest_path.parent, manifest_path.read_bytes()
        hashes[directory.name] = hashlib.sha256(raw).hexdigest()
        for file in json.loads(raw)["files"]:
            path = directory / file["path"]
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
                problems.append(f"{directory.name}/{file['path']} is missing or damaged")
    latest = json.loads((run / "ckpt" / "latest.json").read_text())
    if hashes.get(latest["dir"]) != latest["manifest_sha256"]:
        problems.append("latest.json does not point at a checkpoint with that manifest")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
        problems.append("events.jsonl is not numbered 1, 2, 3, …")
    done_path = run / "DONE.json"
    if done_path.exists():
        final = json.loads(done_path.read_text())
        if hashes.get(Path(final["final_ckpt"]).name) != final["manifest_sha256"]:
            problems.append("DONE.json names a checkpoint that is not there")
    return problems


if __name__ == "__main__":
    found = check(Path(sys.argv[1]))
    print("\n".join(found) or "sound")
    sys.exit(bool(found))
