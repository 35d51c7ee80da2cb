"""What a target of this provider can be configured with, and what a spec can ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from agora.model.base import Model
from pydantic import Field

#: Published limits of one account in one region that `share` is a part of: docs/fargate.md lists them.
DEFAULT_SHARE = 0.5
#: `stopTimeout` of a container on Fargate: "The valid values for Fargate are 2-120 seconds" (botocore's ECS model).
MIN_GRACE, MAX_GRACE = 2, 120

#: The services that this provider calls, by boto3's names.
Service = Literal["ecs", "logs", "secretsmanager", "sqs"]


class CapacityProvider(Model):
    """One item of a capacity provider strategy.

    Parameters:
        provider: `FARGATE`, `FARGATE_SPOT` or another one of the cluster.
        weight, base: as ECS counts them.
    """

    provider: str = Field(min_length=1)
    weight: int = Field(default=1, ge=0, le=1000)
    base: int = Field(default=0, ge=0, le=100_000)


class FargateOptions(Model):
    """What `spec.options` may say.

    Parameters:
        subnets, security_groups: ids, of one VPC; at most 16 and 5. Without a group the VPC's own is used.
        assign_public_ip: give the task a public address; it needs one, or a NAT, to pull from a public registry.
        platform_version: of Fargate; `LATEST` if none.
        capacity_providers: where to run, instead of plain `FARGATE`.
        execution_role: ARN of the role with which ECS pulls the image, reads secrets and writes logs.
        task_role: ARN of the role that the workload itself has.
        cpu_architecture: `X86_64` (ECS's default) or `ARM64`.
        ephemeral_storage: GiB, 21 to 200; 20 if none.
        user: in place of the image's own: `user`, `uid`, `uid:gid`, ...
        readonly_root: mount the root file system read-only.
        secrets: variables whose values ECS reads itself: name to ARN of a secret of Secrets Manager or a
            parameter of Systems Manager.
        tags: of the task and its definition. StopTask deletes those of the task, so nothing relies on them.
    """

    subnets: tuple[str, ...] = Field(default=(), max_length=16)
    security_groups: tuple[str, ...] = Field(default=(), max_length=5)
    assign_public_ip: bool = False
    platform_version: str | None = None
    capacity_providers: tuple[CapacityProvider, ...] = Field(default=(), max_length=20)
    execution_role: str | None = None
    task_role: str | None = None
    cpu_architecture: Literal["X86_64", "ARM64"] | None = None
    ephemeral_storage: int | None = Field(default=None, ge=21, le=200)
    user: str | None = None
    readonly_root: bool = False
    secrets: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict, max_length=50)


class FargateConfig(Model):
    """A cluster of ECS.

    Parameters:
        cluster: name or ARN; its ARN is the identity of the backend.
        region, profile: as boto3 finds them by default.
        config_file: AWS configuration file; `AWS_CONFIG_FILE` or `~/.aws/config` by default.
        credentials_file: file with credentials of profiles; `AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials` by
            default.
        endpoints: URLs of services, AWS's own for those that are not named; as boto3 finds them by default.
        image: image of dispatches that name none.
        log_group: log group of CloudWatch, which has to be there.
        log_mode: `blocking` loses no line, and makes a workload wait where CloudWatch does not answer;
            `non-blocking` is ECS's own default since June 2025, and drops lines instead.
        log_lag: seconds after the end of a workload for which its last lines are waited for.
        graces: seconds; a dispatch gets the next of them that is not below its own grace, so that few task
            definitions are needed.
        capacity_patience: seconds for which a start is tried again where ECS has no capacity, or the account's
            quota is used up.
        share: part of the published rates that one process uses; above 1 where AWS has raised those of the account.
        queue_url: queue of SQS that receives "ECS Task State Change" events of EventBridge; only polled if none.
        defaults: options of every dispatch; what a dispatch says itself goes before.
    """

    cluster: str = Field(default="default", min_length=1)
    region: str | None = None
    profile: str | None = None
    config_file: Path | None = None
    credentials_file: Path | None = None
    endpoints: dict[Service, str] | None = None
    image: str | None = None
    log_group: str = Field(default="/agora", pattern=r"^[.\-_/#A-Za-z0-9]{1,512}$")
    log_mode: Literal["blocking", "non-blocking"] = "blocking"
    log_lag: float = Field(default=5, ge=0, le=60)
    graces: tuple[int, ...] = Field(default=(*range(MIN_GRACE, 16), 20, 30, 45, 60, 90, MAX_GRACE))
    capacity_patience: int = Field(default=60, ge=0)
    share: float = Field(default=DEFAULT_SHARE, gt=0, le=10)
    queue_url: str | None = None
    defaults: FargateOptions = FargateOptions()

    def options(self, given: dict[str, Any]) -> FargateOptions:
        """Return the options of a dispatch: what it says, and this target's defaults for the rest."""
        own = FargateOptions.model_validate(given)
        return self.defaults.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

    def stop_timeout(self, grace: int) -> int:
        """Return the `stopTimeout` for a grace: the least step that is not below it, at most ECS's own 120 s."""
        steps = [step for step in self.graces if grace <= step <= MAX_GRACE and step >= MIN_GRACE]
        return min(steps, default=MAX_GRACE)
