"""The only module that imports the official `runpod` package. Run as a process by `balance`, never imported.

Standard input: one line of JSON with the key. Standard output: one line of JSON, `{"myself": {…}}` or
`{"error": TYPE}`. Nothing else of the package's gets out: exceptions of it can hold whole queries.
"""

from __future__ import annotations

import json
import os
import sys

_QUERY = "query myself { myself { id clientBalance currentSpendPerHr spendLimit } }"


def main() -> int:
    """Answer one question. Always exit code 0 with a line; the parent decides what it means."""
    out = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the package and its imports may print
    os.dup2(nowhere, 2)
    answer: dict[str, object]
    try:
        key = str(json.loads(sys.stdin.readline())["key"])
        from runpod.api.graphql import run_graphql_query

        body = run_graphql_query(_QUERY, api_key=key)
        data = body.get("data") if isinstance(body, dict) else None
        me = data.get("myself") if isinstance(data, dict) else None
        answer = {"myself": me} if isinstance(me, dict) else {"error": "no answer"}
    except BaseException as error:  # noqa: BLE001 - whatever happens is one word for the parent
        answer = {"error": type(error).__name__}
    out.write(json.dumps(answer) + "\n")
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
