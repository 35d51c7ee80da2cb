"""What a target of this provider can be configured with, and what a spec can ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from agora.model.base import Model
from pydantic import Field

Driver = Literal["docker", "exec", "raw_exec"]

#: Nomad's client agents cap every grace at this many seconds unless they are told otherwise
#: (`max_kill_timeout`, client block of the agent's configuration).
DEFAULT_MAX_GRACE = 30


class Constraint(Model):
    """A constraint of the job, in Nomad's words.

    Parameters:
        attribute: what is looked at, `${attr.kernel.name}` for example.
        operator: `=`, `!=`, `>`, `regexp`, `version`, `set_contains`, ...
        value: what it is compared with.
    """

    attribute: str = ""
    operator: str = "="
    value: str = ""


class Vault(Model):
    """The `vault` block of the task.

    Parameters:
        role: role of Vault to log in with; the cluster's default if none.
        policies: policies of the token.
        namespace: namespace of Vault.
        cluster: name of the Vault cluster.
        env: put the token into the environment.
    """

    role: str | None = None
    policies: tuple[str, ...] = ()
    namespace: str | None = None
    cluster: str | None = None
    env: bool = True


class Consul(Model):
    """The `consul` block of the task.

    Parameters:
        namespace, partition, cluster: where the task's Consul token belongs.
    """

    namespace: str | None = None
    partition: str | None = None
    cluster: str | None = None


class NomadOptions(Model):
    """What `spec.options` may say.

    Parameters:
        driver: how the task is run; the target's driver if none.
        datacenters: where it may run, patterns with `*` included; everywhere if none.
        node_pool: the node pool; the namespace's default if none.
        priority: of the job, 1 to 100.
        constraints: what the node must be like.
        cpu_mhz, memory_mb: what the scheduler sets aside where `spec.resources` says nothing; Nomad's own
            defaults (resources block of a job specification). The memory is a limit as well.
        memory_max_mb: limit of memory above what is set aside, where the cluster allows it.
        cores: whole cores for this workload alone, in place of CPU shares.
        user: who runs the task.
        config: further keys of the driver's `config`, in Nomad's words.
        vault, consul: blocks of the task.
        meta: added to the job's Meta; not under `agora.`.
        job: patch of the job in the words of Nomad's API, for everything else; lists whose items have a `Name`
            merge by it.
    """

    driver: Driver | None = None
    datacenters: tuple[str, ...] = ()
    node_pool: str | None = None
    priority: int | None = Field(default=None, ge=1, le=100)
    constraints: tuple[Constraint, ...] = ()
    cpu_mhz: int = Field(default=100, ge=1)
    memory_mb: int = Field(default=300, ge=10)
    memory_max_mb: int | None = Field(default=None, ge=10)
    cores: int | None = Field(default=None, ge=1)
    user: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    vault: Vault | None = None
    consul: Consul | None = None
    meta: dict[str, str] = Field(default_factory=dict)
    job: dict[str, Any] = Field(default_factory=dict)


class NomadConfig(Model):
    """A namespace of a cluster.

    Parameters:
        address: URL of any agent; `NOMAD_ADDR`, else `http://127.0.0.1:4646`.
        token_file: file with the access token, read again when it changes; else `NOMAD_TOKEN`. The token itself is
            no key: a target's table is stored with every dispatch.
        namespace: where jobs are; `NOMAD_NAMESPACE`, else `default`.
        region: `NOMAD_REGION`, else the agent's own.
        ca_cert, ca_path: certificates that the agent's must lead to; `NOMAD_CACERT`, `NOMAD_CAPATH`, else those of
            the system.
        client_cert, client_key: our own certificate; `NOMAD_CLIENT_CERT` and `NOMAD_CLIENT_KEY`.
        tls_server_name: name in the agent's certificate; `NOMAD_TLS_SERVER_NAME`.
        tls_skip_verify: trust any certificate; `NOMAD_SKIP_VERIFY`. Off unless it is asked for.
        variables: whether these variables are read. `NOMAD_TOKEN` always is.
        driver: how tasks are run.
        image: image of dispatches that name none (driver `docker`).
        max_grace: seconds of grace that the client agents allow (`max_kill_timeout`); else what the agent says,
            where it may be asked, else 30.
        mhz_per_core: what a core of `spec.resources.cpu` is in the CPU shares of the scheduler.
        host_namespaces: with the driver `exec`, run in the pid and ipc namespaces of the host. Without it the
            workload is process 1 of its own, and one without a handler for SIGTERM waits out its whole grace.
        defaults: options of every dispatch; what a dispatch says itself goes before.
    """

    address: str | None = None
    token_file: Path | None = None
    namespace: str | None = None
    region: str | None = None
    ca_cert: Path | None = None
    ca_path: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    tls_server_name: str | None = None
    tls_skip_verify: bool | None = None
    variables: bool = True
    driver: Driver = "docker"
    image: str | None = None
    max_grace: int | None = Field(default=None, ge=2)
    mhz_per_core: int = Field(default=1000, ge=1)
    host_namespaces: bool = True
    defaults: NomadOptions = NomadOptions()

    def options(self, given: dict[str, Any]) -> NomadOptions:
        """Return the options of a dispatch: what it says, and this target's defaults for the rest."""
        own = NomadOptions.model_validate(given)
        return self.defaults.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
