"""A training script that knows nothing of gputui: gradient descent on a line, with checkpoints.

It shows what such a script should do anyway: write a checkpoint under another name and rename it,
and go on from the newest when it is started again.
"""

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds per step, to make it last")
    args = parser.parse_args()
    points = [(x / 50, 3 * x / 50 + 1) for x in range(100)]
    folder = Path("ckpt")
    folder.mkdir(exist_ok=True)
    saved = sorted(folder.glob("step-*.json"))
    state = json.loads(saved[-1].read_text()) if saved else {"step": 0, "slope": 0.0, "offset": 0.0}
    print(f"from step {state['step']}", flush=True)
    loss = 0.0
    while state["step"] < args.steps:
        errors = [state["slope"] * x + state["offset"] - y for x, y in points]
        state["slope"] -= 0.1 * sum(e * x for e, (x, _) in zip(errors, points, strict=True)) / len(points)
        state["offset"] -= 0.1 * sum(errors) / len(points)
        loss = sum(e * e for e in errors) / len(points)
        state["step"] += 1
        time.sleep(args.pause)
        if state["step"] % args.every == 0:
            temporary = folder / ".tmp"
            temporary.write_text(json.dumps(state))
            temporary.replace(folder / f"step-{state['step']:06d}.json")
            print(f"step {state['step']} loss {loss:.6f}", flush=True)
    Path("result.json").write_text(json.dumps({**state, "loss": loss}))


if __name__ == "__main__":
    main()
