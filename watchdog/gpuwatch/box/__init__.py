"""The inside of a rented machine, over one SSH connection: connect, command, list, fetch, follow."""
