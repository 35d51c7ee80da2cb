"""The termination message of a container in Kubernetes: what `kubectl` and the pod's status tell of its end."""

from __future__ import annotations

import os

#: Where Kubernetes has it unless a pod says otherwise (Container v1 core, `terminationMessagePath`).
PATH = "/dev/termination-log"


def write(path: str, exit_code: int, clean: bool) -> None:
    """Say that the end is a cancel; only into a file that is there.

    Parameters:
        path: of the file.
        exit_code: that the program ends with.
        clean: it got done in time.
    Raises:
        OSError: the file is there and cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        said = f'{{"status": "cancelled", "exitCode": {exit_code}, "clean": {"true" if clean else "false"}}}\n'
        os.write(descriptor, said.encode())
    finally:
        os.close(descriptor)
