"""The only module that imports the official `runpod` package. Run as a process by `sdk`, never imported.

Standard input: one line of JSON with the key and a query. Standard output: one line of JSON, `{"data": {…}}` or
`{"error": TYPE, "text": …}`. Nothing else of the package's gets out: exceptions of it can hold whole queries; of a refusal
only the vendor's message is passed on.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    """Answer one question. Always exit code 0 with a line; the parent decides what it means."""
    out = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the package and its imports may print
    os.dup2(nowhere, 2)
    answer: dict[str, object]
    try:
        order = json.loads(sys.stdin.readline())
        from runpod.api.graphql import run_graphql_query

        body = run_graphql_query(str(order["query"]), api_key=str(order["key"]))
        data = body.get("data") if isinstance(body, dict) else None
        answer = {"data": data} if isinstance(data, dict) else {"error": "no answer"}
    except BaseException as error:  # noqa: BLE001 - whatever happens is one word for the parent
        answer = {"error": type(error).__name__}
        if type(error).__name__ == "QueryError":
            answer["text"] = str(getattr(error, "message", ""))[:300]
    out.write(json.dumps(answer) + "\n")
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
