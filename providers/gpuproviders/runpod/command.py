"""What a pod runs so that SSH answers in it, whatever its image. Pure.

RunPod has no sshd of its own: official images start one in `/start.sh`, other images start none, and a
command of ours would replace `/start.sh`. So ours takes the key, starts the user's part beside it, and ends
in `/start.sh` or in an sshd, which it installs where there is none.
"""

from __future__ import annotations

OFFICIAL = "runpod/"
"""Images with /start.sh that sets up the key of PUBLIC_KEY and starts sshd."""

_SCRIPT = """\
mkdir -p ~/.ssh && chmod 700 ~/.ssh
if [ -n "$PUBLIC_KEY" ]; then printf '%s\\n' "$PUBLIC_KEY" >> ~/.ssh/authorized_keys; chmod 600 ~/.ssh/authorized_keys; fi
{onstart}if [ -x /start.sh ]; then exec /start.sh; fi
if ! command -v sshd > /dev/null 2>&1; then
  if command -v apt-get > /dev/null 2>&1; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server
  elif command -v apk > /dev/null 2>&1; then
    apk add --no-cache openssh-server
  fi
fi
mkdir -p /run/sshd
ssh-keygen -A
"$(command -v sshd || echo sshd)" -D -e
echo "gputui: sshd ended or is missing in this image; the pod is kept so that it does not start over and over"
exec sleep 2147483647
"""


def command(image: str, onstart: str | None) -> tuple[list[str], list[str]] | None:
    """(entrypoint, cmd) for a pod, or None when the image's own command already does it."""
    if image.startswith(OFFICIAL) and not onstart:
        return None
    beside = f"(\n{onstart}\n) > /var/log/onstart.log 2>&1 &\n" if onstart else ""
    return ["/bin/sh", "-c"], [_SCRIPT.format(onstart=beside)]
