"""How programs talk to the daemon: typed messages (`wire`), a blocking client, an async client.

Light on purpose: the CLI's listing path is this package, msgspec and sockets.
"""
