"""How to reach a cluster: kubeconfig and context, or the service account of the pod that this runs in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agora.errors import ConfigError

from agora_k8s.config import K8sConfig

if TYPE_CHECKING:
    from urllib3 import PoolManager

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: As many connections as calls at the same time, and two watches.
_CONNECTIONS = 24


@dataclass(frozen=True)
class Connection:
    """A way to an API server.

    Parameters:
        client: the `ApiClient` of the official client.
        namespace: where workloads run.
        source: where the credentials came from, for messages.
    """

    client: Any
    namespace: str
    source: str

    @property
    def pool(self) -> PoolManager:
        """The connections, with the TLS settings of the configuration."""
        pool: PoolManager = self.client.rest_client.pool_manager
        return pool

    def url(self, path: str) -> str:
        """Return the address of a path of the API."""
        return f"{self.client.configuration.host.rstrip('/')}{path}"

    def headers(self) -> dict[str, str]:
        """Return the headers of every request; a token that has run out is fetched again first."""
        headers: dict[str, str] = {**self.client.default_headers, "Accept": "application/json"}
        self.client.update_params_for_auth(headers, [], ["BearerToken"])
        return headers


def settled(target: str, config: K8sConfig) -> K8sConfig:
    """Return a configuration with what it leaves to the surroundings of this process.

    Nothing is sent, and no credentials are looked up.

    Parameters:
        target: its name, for messages.
        config: as configured.
    Raises:
        ConfigError: there is no usable kubeconfig and no service account.
    """
    said = str(config.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    # A user without a home, as in many pods, has no such file; pathlib would raise.
    files = [Path(os.path.expanduser(file)).absolute() for file in said.split(os.pathsep) if file]  # noqa: PTH111
    found: dict[str, Any]
    with _explained(target):
        named = config.kubeconfig or config.context or os.environ.get("KUBECONFIG") or files[0].exists()
        inside = os.environ.get("KUBERNETES_SERVICE_HOST") and (_ACCOUNT / "token").exists()
        if config.in_cluster or (inside and not named):
            own = config.namespace or (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            found = {"in_cluster": True, "namespace": own}
        else:
            found = {"kubeconfig": Path(os.pathsep.join(map(str, files)))}
            if not (config.context and config.namespace):
                found |= _context(str(found["kubeconfig"]), config)
    return config.model_copy(update=found)


def _context(files: str, config: K8sConfig) -> dict[str, str]:
    # As a whole first: threads that begin with different parts of a package see half of it.
    import kubernetes  # type: ignore[import-untyped]  # noqa: F401
    from kubernetes.config.kube_config import KubeConfigMerger  # type: ignore[import-untyped]

    read = KubeConfigMerger(files)
    if read.config is None:
        raise ConfigError(f"no configuration found in {files}")
    # As kubectl has it, the first file that names one; the client takes the last.
    current = next((name for one in read.config_files.values() if (name := one.get("current-context"))), None)
    if not (wanted := config.context or current):
        raise ConfigError(f"no current context in {files}")
    found = read.config["contexts"].get_with_name(wanted)["context"]
    return {"context": wanted, "namespace": str(config.namespace or found.safe_get("namespace") or "default")}


@contextmanager
def _explained(target: str) -> Iterator[None]:
    """Make a `ConfigError` of whatever the client says of a file, of which it checks little."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - and without its cause, which would show what is left out here
        # The client names a part of a kubeconfig by all that the part holds.
        words = re.sub(r"\{.*\}", "{...}", " ".join(str(error).split()))
        raise ConfigError(
            f"target {target!r} (k8s): no way to a cluster: {words}; name a kubeconfig and a context, or set "
            "`in_cluster = true` in a pod"
        ) from None


def surroundings(target: str, config: K8sConfig) -> dict[str, Any]:
    """Return the settings that lead every process to the namespace that this one is led to by its surroundings.

    They name a kubeconfig and hold nothing of its credentials.

    Raises:
        ConfigError: as for `settled`.
    """
    whole = settled(target, config)
    keys = ("kubeconfig", "context", "in_cluster", "namespace")
    left = {key for key in keys if getattr(whole, key) != getattr(config, key)}
    if not isinstance(whole.context, str):
        left.discard("context")  # a number without quotes, which the client finds by the number alone
    return whole.model_dump(mode="json", include=left)


def connect(target: str, config: K8sConfig) -> Connection:
    """Read the configuration; nothing is sent.

    Raises:
        ConfigError: there is no usable kubeconfig and no service account.
    """
    from kubernetes import client
    from kubernetes import config as loader

    config = settled(target, config)
    settings = type.__call__(client.Configuration)
    settings.retries = False
    settings.connection_pool_maxsize = _CONNECTIONS
    with _explained(target):
        if config.in_cluster:
            loader.load_incluster_config(client_configuration=settings)
            source = "the service account of this pod"
        else:
            file = str(config.kubeconfig)
            if not any(Path(one).exists() for one in file.split(os.pathsep)):
                raise ConfigError(f"no configuration found in {file}")
            loader.load_kube_config(file, config.context, settings, persist_config=False)
            source = f"context {config.context!r} of {file}"
    return Connection(client.ApiClient(settings), str(config.namespace), source)
