"""Own machines over SSH. `SshProvider` is the adapter; "destroy" means: our files go, the machine stays."""

from gpuproviders.ssh.adapter import SshProvider

__all__ = ["SshProvider"]
