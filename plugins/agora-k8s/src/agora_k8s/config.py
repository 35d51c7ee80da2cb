"""What a target of this provider can be configured with, and what a spec can ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from agora.model.base import Model
from pydantic import Field

#: A Job is kept so long at least, so that its name stays taken for as long as a dispatch may be sent again.
MIN_TTL = 3600


class Toleration(Model):
    """A toleration of a pod, in the cluster's words."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class K8sOptions(Model):
    """What `spec.options` may say.

    Parameters:
        service_account: name of the service account; the namespace's default account if none.
        automount_token: mount the account's token into the workload.
        node_selector: labels that the node must have.
        tolerations: taints that the pod accepts.
        requests, limits: resources by name (`cpu`, `memory`, `nvidia.com/gpu`, ...), in the cluster's notation;
            they go before what `spec.resources` says.
        image_pull_secrets: names of secrets for the registry.
        image_pull_policy: `Always`, `IfNotPresent` or `Never`; the cluster's default if none.
        host_network: share the network of the node.
        priority_class, runtime_class: names of such classes.
        security: `restricted` fits the Pod Security Standard of that name (no root, no capabilities, no
            privilege escalation, default seccomp profile); `image` leaves it to the image and the cluster.
        run_as_user, run_as_group, fs_group: numeric ids; the image's own if none.
        labels, annotations: added to the Job and its pod; not under `agora.dev/`.
        pod_template: strategic-merge patch of the pod template, for everything else.
    """

    service_account: str | None = None
    automount_token: bool = False
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    requests: dict[str, str] = Field(default_factory=dict)
    limits: dict[str, str] = Field(default_factory=dict)
    image_pull_secrets: tuple[str, ...] = ()
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    host_network: bool = False
    priority_class: str | None = None
    runtime_class: str | None = None
    security: Literal["restricted", "image"] = "restricted"
    run_as_user: int | None = Field(default=None, ge=0)
    run_as_group: int | None = Field(default=None, ge=0)
    fs_group: int | None = Field(default=None, ge=0)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    pod_template: dict[str, Any] = Field(default_factory=dict)


class K8sConfig(Model):
    """A namespace of a cluster.

    Parameters:
        kubeconfig: path of a kubeconfig file, or several as in `KUBECONFIG`; that or `~/.kube/config` by default, and
            the pod's own service account where there is neither and the program runs in a cluster.
        context: a context of the kubeconfig; its current one by default.
        in_cluster: use the pod's own service account and no kubeconfig.
        namespace: where workloads run; the context's, or the pod's own, by default.
        image: image of dispatches that name none.
        finalizer: hold the record of a pod that is stopped until its exit code is written on its Job. Without
            it the exit code is null where nobody was watching when the pod ended.
        ttl: seconds for which the cluster keeps an ended Job and its log.
        start_patience: seconds for which an image may fail to be pulled, or a container to be made, before the
            workload is given up and ends `failed` with the cluster's words.
        log_tail: bytes of output that are kept here once a workload has ended; 0 keeps none.
        defaults: options of every dispatch; what a dispatch says itself goes before.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    in_cluster: bool = False
    namespace: str | None = None
    image: str | None = None
    finalizer: bool = True
    ttl: int = Field(default=86_400, ge=MIN_TTL)
    start_patience: int = Field(default=60, ge=0)
    log_tail: int = Field(default=1_000_000, ge=0)
    defaults: K8sOptions = K8sOptions()

    def options(self, given: dict[str, Any]) -> K8sOptions:
        """Return the options of a dispatch: what it says, and this target's defaults for the rest."""
        own = K8sOptions.model_validate(given)
        return self.defaults.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
