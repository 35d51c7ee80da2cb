"""How to reach a cluster: kubeconfig and context, or the service account of the pod that this runs in."""

from __future__ import annotations

import os
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


def connect(target: str, config: K8sConfig) -> Connection:
    """Read the configuration; nothing is sent.

    Raises:
        ConfigError: there is no usable kubeconfig and no service account.
    """
    from kubernetes import client, config as loader  # type: ignore[import-untyped]  # noqa: I001
    from kubernetes.config import ConfigException  # type: ignore[import-untyped]

    settings = type.__call__(client.Configuration)
    settings.retries = False
    settings.connection_pool_maxsize = _CONNECTIONS
    # The client reads KUBECONFIG once, when it is imported; it may have been set since.
    file = str(config.kubeconfig or os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser())
    inside = bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (_ACCOUNT / "token").exists()
    named = bool(config.kubeconfig or config.context or os.environ.get("KUBECONFIG") or Path(file).exists())
    try:
        if config.in_cluster or (inside and not named):
            loader.load_incluster_config(client_configuration=settings)
            own = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            source = "the service account of this pod"
        else:
            loader.load_kube_config(
                config_file=file, context=config.context, client_configuration=settings, persist_config=False
            )
            contexts, current = loader.list_kube_config_contexts(config_file=file)
            wanted = config.context or current["name"]
            found = next(one["context"] for one in contexts if one["name"] == wanted)
            own = found.get("namespace") or "default"
            source = f"context {wanted!r} of {file}"
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"target {target!r} (k8s): no way to a cluster: {error}; name a kubeconfig and a context, or set "
            "`in_cluster = true` in a pod"
        ) from error
    return Connection(client.ApiClient(settings), config.namespace or own, source)
