"""A small image, made of this machine's static busybox where there is one; a public one elsewhere."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from agora.errors import ProviderError

from agora_docker.engine import Engine

#: The image on the engine.
NAME = "agora-test/busybox:1"
#: What it is where this machine has no busybox: the official image, by its tag. Who wants a digest names one.
PUBLIC = "busybox:1.37"
#: Where a static busybox is, if there is one.
BUSYBOX = Path("/bin/busybox")
_TAR = {"Content-Type": "application/x-tar"}
_SECONDS = 120.0


def _archive() -> bytes:
    names = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True, timeout=10).stdout.split()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        for directory, mode in (("bin", 0o755), ("tmp", 0o1777), ("etc", 0o755)):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        archive.add(BUSYBOX, "bin/busybox")
        for name in names:
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
    return packed.getvalue()


def ensure(engine: Engine) -> str:
    """Return the name of a busybox image on the engine, made now if it is not there."""
    if _there(engine, NAME):
        return NAME
    if not BUSYBOX.exists():
        return PUBLIC
    repository, _, tag = NAME.rpartition(":")
    params = {"fromSrc": "-", "repo": repository, "tag": tag}
    engine.request("POST", "/images/create", params=params, data=_archive(), headers=_TAR, seconds=_SECONDS)
    return NAME


def derive(engine: Engine, name: str, *instructions: str, base: str | None = None) -> str:
    """Return the name of an image with further Dockerfile instructions.

    Parameters:
        base: the image that it is made of; the busybox one by default.
    Raises:
        ProviderError: it cannot be built.
    """
    if not _there(engine, name):
        text = "\n".join([f"FROM {base or ensure(engine)}", *instructions]).encode()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        params, data = {"t": name}, packed.getvalue()
        said = engine.request("POST", "/build", params=params, data=data, headers=_TAR, seconds=_SECONDS).text
        if not _there(engine, name):
            raise ProviderError(f"{name} could not be built: {said[-500:]}")
    return name


def _there(engine: Engine, name: str) -> bool:
    return engine.request("GET", f"/images/{name}/json", accept=(404,)).status_code != 404
