"""An emulated cluster in a process of its own, for the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from agora_conformance.emulators.hosted import told_to_end
from agora_conformance.emulators.k8s.clock import Timing
from agora_conformance.emulators.k8s.emulator import K8sEmulator


def serve(
    port: int, kubeconfig: Path | None, manifests: Iterable[Path], missing: tuple[str, ...], scale: float,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Serve until SIGINT or SIGTERM; nothing is left running after that.

    Parameters:
        port: to listen on; 0 for any.
        kubeconfig: where to write one; None for nowhere.
        manifests: YAML files of objects to create first.
        missing: patterns of images that cannot be pulled.
        scale: how slow the cluster is; 0.2 is five times as fast, graces included.
        say: gets one line once it answers.
    """
    over = told_to_end()
    with K8sEmulator(timing=Timing().scaled(scale), missing=missing, port=port) as emulator:
        for path in manifests:
            emulator.load(filter(None, yaml.safe_load_all(path.read_text(encoding="utf-8"))))
        if kubeconfig is not None:
            emulator.kubeconfig(kubeconfig)
        say(f"emulated Kubernetes cluster at {emulator.url}")
        over.wait()
