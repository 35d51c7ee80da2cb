"""The requests of the emulated ECS: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from agora_conformance.emulators.ecs import EcsEmulator, Timing
from agora_conformance.emulators.ecs.model import Misshapen, load
from ecs_account import GROUP, NETWORK, READY, ROLE, Ecs, Object, refused

INVALID, CLIENT = "InvalidParameterException", "ClientException"
TARGET = "AmazonEC2ContainerServiceV20141113."
UNKNOWN = "0" * 32


@pytest.fixture(scope="module")
def account() -> Iterator[Ecs]:
    """One account for all tests of this module."""
    timing = Timing().hurried(0.002)
    with EcsEmulator(timing=timing, log_groups=(GROUP,), clusters=("other", "listed"), throttle=False) as emulator:
        made = Ecs(emulator)
        yield made
        made.close()


@pytest.fixture(scope="module")
def definition(account: Ecs) -> str:
    """A task definition."""
    return account.definition(READY)


# -- the protocol ------------------------------------------------------------------------------------------------


def test_errors_of_the_protocol(account: Ecs) -> None:
    def answer(target: str, body: Any, **headers: str) -> tuple[int, str]:
        status, found = account.raw(target, body, **headers)
        return status, found["__type"]

    assert answer(TARGET + "NoSuchThing", {}) == (400, "UnknownOperationException")
    assert answer("Other.RunTask", {}) == (400, "UnknownOperationException")
    assert answer(TARGET + "ListTasks", b"{") == (400, "SerializationException")
    assert answer(TARGET + "ListTasks", []) == (400, "SerializationException")
    wrong = answer(TARGET + "ListTasks", {}, Content_Type="application/json")
    assert wrong == (400, "SerializationException")
    assert answer(TARGET + "ListTasks", {}, Authorization="none") == (400, "MissingAuthenticationTokenException")
    assert account.raw(TARGET + "ListTasks", {"cluster": None})[0] == 200


@pytest.mark.parametrize(
    ("action", "body", "words"),
    [
        ("RunTask", {}, "taskDefinition"),
        ("StopTask", {}, "task"),
        ("StopTask", {"task": 5}, "Invalid type"),
        ("StopTask", {"task": UNKNOWN, "grace": 5}, '"grace"'),
        ("RunTask", {"taskDefinition": "a", "overrides": {"containerOverrides": [{"secrets": []}]}}, '"secrets"'),
        ("ListTasks", {"launchType": "FARGAT"}, "Member must satisfy enum value set"),
        ("RunTask", {"taskDefinition": "a", "tags": [{"key": "k" * 129}]}, "at most 128"),
    ],
)
def test_requests_that_do_not_fit_the_model(account: Ecs, action: str, body: Object, words: str) -> None:
    status, answer = account.raw(TARGET + action, body)
    assert (status, answer["__type"]) == (400, INVALID)
    assert words in answer["message"]


def test_answers_are_held_to_the_model_too() -> None:
    service = load("ecs")
    assert service.fit("ListTasks", {"taskArns": ["a"]}) == {"taskArns": ["a"]}
    wrongs: list[Object] = [{"taskArn": []}, {"taskArns": [5]}, {"taskArns": "a"}]
    for wrong in wrongs:
        with pytest.raises(Misshapen):
            service.fit("ListTasks", wrong)
    with pytest.raises(Misshapen):
        service.fit("StopTask", {"task": {"stopCode": "Elsewhere"}})


def test_credentials_and_policy() -> None:
    policy = {"Statement": [{"Effect": "Allow", "Action": ["ecs:List*"], "Resource": "*"}]}
    with EcsEmulator(keys=("key",), policy=policy) as emulator:
        made = Ecs(emulator)
        assert made.ecs.list_tasks()["taskArns"] == []
        words = "is not authorized to perform: ecs:DescribeClusters"
        refused(made.ecs.describe_clusters, "AccessDeniedException", words)
        other = "AWS4-HMAC-SHA256 Credential=other/20260101/eu-central-1/ecs/aws4_request"
        status, answer = made.raw(TARGET + "ListTasks", {}, Authorization=other)
        assert (status, answer["__type"]) == (400, "UnrecognizedClientException")
        made.close()


# -- clusters and tags -------------------------------------------------------------------------------------------


def test_clusters(account: Ecs) -> None:
    found = account.ecs.describe_clusters(clusters=["default", "none"])
    assert [one["status"] for one in found["clusters"]] == ["ACTIVE"]
    assert [one["reason"] for one in found["failures"]] == ["MISSING"]
    name = f"made-{uuid.uuid4().hex[:6]}"
    arn = account.ecs.create_cluster(clusterName=name)["cluster"]["clusterArn"]
    assert arn in account.ecs.list_clusters()["clusterArns"]
    account.ecs.delete_cluster(cluster=arn)
    for call, request in (
        (account.ecs.list_tasks, {}),
        (account.ecs.describe_tasks, {"tasks": [UNKNOWN]}),
        (account.ecs.stop_task, {"task": UNKNOWN}),
        (account.ecs.run_task, {"taskDefinition": "a"}),
    ):
        refused(call, "ClusterNotFoundException", "Cluster not found.", cluster=name, **request)


def test_tags(account: Ecs, definition: str) -> None:
    arn = account.start(READY, until="", tags=[{"key": "a", "value": "1"}])
    account.ecs.tag_resource(resourceArn=arn, tags=[{"key": "b", "value": "2"}])
    account.ecs.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert account.ecs.list_tags_for_resource(resourceArn=arn)["tags"] == [{"key": "b", "value": "2"}]
    account.ecs.stop_task(task=arn)
    assert account.ecs.list_tags_for_resource(resourceArn=arn)["tags"] == []
    late = [{"key": "c", "value": "3"}]
    refused(account.ecs.tag_resource, INVALID, "is stopped", resourceArn=arn, tags=late)
    request = account.request(definition)
    for tags, words in (
        ([{"key": "aws:x", "value": "1"}], "reserved"),
        ([{"key": "a", "value": "1"}] * 2, "Duplicate"),
        ([{"key": "a", "value": "{}"}], "invalid characters"),
    ):
        refused(account.ecs.run_task, INVALID, words, **request, tags=tags)


# -- task definitions --------------------------------------------------------------------------------------------


def test_task_definitions_from_register_to_delete(account: Ecs) -> None:
    family = f"f-{uuid.uuid4().hex[:6]}"
    first, second = (account.definition(READY, family=family, tags=[{"key": "a", "value": "b"}]) for _ in range(2))
    assert (first.rpartition("/")[2], second.rpartition("/")[2]) == (f"{family}:1", f"{family}:2")
    latest = account.ecs.describe_task_definition(taskDefinition=family, include=["TAGS"])
    assert latest["taskDefinition"]["taskDefinitionArn"] == second
    assert latest["tags"] == [{"key": "a", "value": "b"}]
    assert latest["taskDefinition"]["containerDefinitions"][0]["essential"] is True
    pages = account.ecs.get_paginator("list_task_definitions").paginate(
        familyPrefix=family, PaginationConfig={"PageSize": 1}
    )
    assert [arn for page in pages for arn in page["taskDefinitionArns"]] == [first, second]
    assert family in account.ecs.list_task_definition_families(familyPrefix=family, status="ACTIVE")["families"]

    refused(account.ecs.deregister_task_definition, CLIENT, "Invalid revision number", taskDefinition=family)
    gone = account.ecs.deregister_task_definition(taskDefinition=second)["taskDefinition"]
    assert gone["status"] == "INACTIVE"
    assert account.ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]["revision"] == 1
    refused(account.ecs.run_task, CLIENT, "inactive", **account.request(second))
    deleted = account.ecs.delete_task_definitions(taskDefinitions=[first, second])
    assert [one["taskDefinitionArn"] for one in deleted["taskDefinitions"]] == [second]
    assert [one["arn"] for one in deleted["failures"]] == [first]
    words = "Unable to describe task definition."
    refused(account.ecs.describe_task_definition, CLIENT, words, taskDefinition=second)
    assert account.definition(READY, family=family).endswith(f"{family}:3")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"cpu": "256", "memory": "4096"}, "No Fargate configuration exists for given values."),
        ({"cpu": "300"}, "No Fargate configuration exists for given values."),
        ({"networkMode": "bridge"}, "Fargate only supports network mode"),
        ({"executionRoleArn": ""}, "execution role ARN to support log driver awslogs"),
        ({"family": "a b"}, "family name"),
        ({"containerDefinitions": []}, "Container definitions should not be null or empty."),
        ({"container": {"stopTimeout": 121}}, "stopTimeout"),
        ({"container": {"stopTimeout": 0}}, "stopTimeout"),
        ({"container": {"image": ""}}, "Container.image"),
        ({"container": {"essential": False}}, "At least one container must be essential."),
        ({"container": {"privileged": True}}, "privileged"),
        ({"container": {"memory": 1024}}, "memory"),
        ({"container": {"environment": [{"name": "A", "value": "x" * 70_000}]}}, "64 KiB"),
        ({"container": {"logConfiguration": {"logDriver": "json-file"}}}, "log driver json-file"),
        ({"container": {"logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "g"}}}}, "options"),
    ],
)
def test_task_definitions_that_fargate_refuses(account: Ecs, about: Object, words: str) -> None:
    refused(account.definition, CLIENT, words, program=READY, **about)


def test_sizes_in_other_words(account: Ecs) -> None:
    arn = account.definition(READY, cpu=".25 vCPU", memory="1 GB")
    found = account.ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
    assert (found["cpu"], found["memory"]) == ("256", "1024")


# -- RunTask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "kind", "words"),
    [
        ({"taskDefinition": "none:1"}, CLIENT, "TaskDefinition not found."),
        ({"count": 11}, INVALID, "Count"),
        ({"count": 0}, INVALID, "Count"),
        ({"startedBy": "a b"}, INVALID, "Started By"),
        ({"startedBy": "a" * 129}, INVALID, "Started By"),
        ({"clientToken": "a" * 65}, INVALID, "clientToken"),
        ({"clientToken": "a b"}, INVALID, "clientToken"),
        ({"launchType": "EC2"}, INVALID, "No Container Instances were found in your cluster."),
        ({"platformVersion": "9.9.9"}, "PlatformUnknownException", "does not exist"),
        ({"networkConfiguration": {}}, INVALID, "Network Configuration must be provided"),
        ({"capacityProviderStrategy": [{"capacityProvider": "FARGATE"}]}, INVALID, "Specifying both"),
        ({"propagateTags": "SERVICE"}, INVALID, "SERVICE"),
        (
            {"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-missing"]}}},
            INVALID,
            "(ErrorCode: InvalidSubnetID.NotFound)",
        ),
        ({"overrides": {"memory": "999"}}, CLIENT, "No Fargate configuration exists"),
        (
            {"overrides": {"containerOverrides": [{"name": "other"}]}},
            INVALID,
            "Override for container named other is not a container in the TaskDefinition.",
        ),
    ],
)
def test_run_task_refuses(account: Ecs, definition: str, about: Object, kind: str, words: str) -> None:
    before = len(account.ecs.list_tasks()["taskArns"])
    refused(account.ecs.run_task, kind, words, **(account.request(definition) | about))
    assert len(account.ecs.list_tasks()["taskArns"]) == before


def test_overrides_have_8192_characters(account: Ecs, definition: str) -> None:
    def overrides(size: int) -> Object:
        empty: Object = {"containerOverrides": [{"name": "main", "environment": [{"name": "A", "value": ""}]}]}
        room = size - len(json.dumps(empty, separators=(",", ":")))
        empty["containerOverrides"][0]["environment"][0]["value"] = "\u00e4" * room
        return empty

    (task,) = account.ecs.run_task(**account.request(definition), overrides=overrides(8192))["tasks"]
    account.ecs.stop_task(task=task["taskArn"])
    words = "Container Overrides length must be at most 8192"
    refused(account.ecs.run_task, INVALID, words, **account.request(definition), overrides=overrides(8193))


def test_a_capacity_provider_and_a_size_of_its_own(account: Ecs, definition: str) -> None:
    request = account.request(definition, capacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT", "weight": 1}])
    del request["launchType"]
    (task,) = account.ecs.run_task(**request, count=1, overrides={"cpu": "512", "memory": "1024"})["tasks"]
    assert (task["capacityProviderName"], task["cpu"], task["memory"]) == ("FARGATE_SPOT", "512", "1024")
    account.ecs.stop_task(task=task["taskArn"])
    request["capacityProviderStrategy"] = [{"capacityProvider": "NONE"}]
    refused(account.ecs.run_task, INVALID, "capacity provider was not found", **request)


def test_a_client_token_starts_one_task(account: Ecs, definition: str) -> None:
    request = account.request(definition, clientToken=f"token-{uuid.uuid4()}", startedBy=uuid.uuid4().hex)
    answers: list[str] = []

    def run() -> None:
        answers.append(account.ecs.run_task(**request)["tasks"][0]["taskArn"])

    threads = [threading.Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert len(answers) == 10
    (arn,) = set(answers)
    assert account.ecs.list_tasks(startedBy=request["startedBy"])["taskArns"] == [arn]
    answer = refused(account.ecs.run_task, "ConflictException", "clientToken", **(request | {"startedBy": "other"}))
    assert answer["resourceIds"] == [arn]
    account.ecs.stop_task(task=arn)
    account.reaches(arn, "STOPPED")
    again = account.ecs.run_task(**request)["tasks"][0]
    assert (again["taskArn"], again["lastStatus"]) == (arn, "STOPPED")
    # A token counts in its cluster alone.
    elsewhere = account.ecs.run_task(**(request | {"cluster": "other"}))["tasks"][0]["taskArn"]
    assert elsewhere != arn
    account.ecs.stop_task(cluster="other", task=elsewhere)


def test_a_client_token_dies_an_hour_after_its_task() -> None:
    timing = Timing(second=0.0002, token_life=1e9, retention=1e9).hurried(0.002)
    with EcsEmulator(timing=timing, log_groups=(GROUP,), throttle=False) as emulator:
        made = Ecs(emulator)
        request = made.request(made.definition("true"), clientToken="once")
        (task,) = made.ecs.run_task(**request)["tasks"]
        made.reaches(task["taskArn"], "STOPPED")
        time.sleep(0.72)  # an hour of the API
        (second,) = made.ecs.run_task(**request)["tasks"]
        assert second["taskArn"] != task["taskArn"]
        made.close()


# -- DescribeTasks, ListTasks, StopTask --------------------------------------------------------------------------


def test_describe_tells_what_is_missing(account: Ecs) -> None:
    arn = account.start(READY, until="")
    other = arn.replace("/default/", "/other/")
    found = account.ecs.describe_tasks(tasks=[arn, UNKNOWN, arn.rpartition("/")[2]])
    assert {one["taskArn"] for one in found["tasks"]} == {arn}
    assert [one["reason"] for one in found["failures"]] == ["MISSING"]
    assert account.ecs.describe_tasks(cluster="other", tasks=[UNKNOWN])["tasks"] == []
    refused(account.ecs.describe_tasks, INVALID, "Tasks cannot be empty.", tasks=[])
    refused(account.ecs.describe_tasks, INVALID, "100", tasks=[f"{i:032x}" for i in range(101)])
    refused(account.ecs.describe_tasks, INVALID, "Task Identifier is invalid", tasks=["a/b#c"])
    refused(account.ecs.describe_tasks, INVALID, "Identifier is for cluster other", tasks=[other])
    account.ecs.stop_task(task=arn)


def test_stop_of_nothing(account: Ecs) -> None:
    refused(account.ecs.stop_task, INVALID, "The referenced task was not found", task=UNKNOWN)
    refused(account.ecs.stop_task, INVALID, "Task Identifier is invalid", task="../../x")
    arn = account.start(READY, until="")
    refused(account.ecs.stop_task, INVALID, "255", task=arn, reason="x" * 256)
    assert account.task(arn)["desiredStatus"] == "RUNNING"
    account.ecs.stop_task(task=arn, reason="x" * 255)


def test_list_filters_and_pages(account: Ecs) -> None:
    request = {"taskDefinition": account.definition(READY), "launchType": "FARGATE", "networkConfiguration": NETWORK}
    arns = account.emulator.populate(5, {**request, "cluster": "listed", "startedBy": "many"})
    pages = account.ecs.get_paginator("list_tasks").paginate(cluster="listed", PaginationConfig={"PageSize": 2})
    assert [arn for page in pages for arn in page["taskArns"]] == arns
    assert account.ecs.list_tasks(cluster="listed", startedBy="many")["taskArns"] == arns
    assert account.ecs.list_tasks(cluster="listed", startedBy="few")["taskArns"] == []
    for more in ({"family": "a"}, {"desiredStatus": "STOPPED"}, {"launchType": "FARGATE"}):
        refused(account.ecs.list_tasks, INVALID, "only filter", startedBy="many", **more)
    refused(account.ecs.list_tasks, INVALID, "token", nextToken="%%%")
    refused(account.ecs.list_tasks, INVALID, "maxResults", maxResults=101)
    for arn in arns:
        account.ecs.stop_task(cluster="listed", task=arn)
    account.until(lambda: account.ecs.list_tasks(cluster="listed", desiredStatus="STOPPED")["taskArns"] == arns)
    assert account.ecs.list_tasks(cluster="listed")["taskArns"] == []


def test_secrets(account: Ecs) -> None:
    name = f"secret-{uuid.uuid4().hex[:6]}"
    arn = account.secrets.create_secret(Name=name, SecretString="one")["ARN"]
    refused(account.secrets.create_secret, "ResourceExistsException", name, Name=name, SecretString="two")
    account.secrets.put_secret_value(SecretId=arn, SecretString="two")
    assert account.secrets.get_secret_value(SecretId=name)["SecretString"] == "two"
    assert account.secrets.describe_secret(SecretId=name)["ARN"] == arn
    assert arn in [one["ARN"] for one in account.secrets.list_secrets()["SecretList"]]
    account.secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    refused(account.secrets.get_secret_value, "ResourceNotFoundException", "can't find", SecretId=name)
    account.secrets.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
    refused(account.secrets.delete_secret, "ResourceNotFoundException", "can't find", SecretId=name)


def test_a_secret_is_made_once_for_one_token_and_value(account: Ecs) -> None:
    name, token = f"made/{uuid.uuid4().hex[:6]}/x", uuid.uuid4().hex
    request = {"Name": name, "ClientRequestToken": token, "SecretString": "{}", "Tags": [{"Key": "a", "Value": "b"}]}
    first = account.secrets.create_secret(**request)
    again = account.secrets.create_secret(**request)
    assert (again["ARN"], again["VersionId"]) == (first["ARN"], token)
    create = account.secrets.create_secret
    refused(create, "ResourceExistsException", "already exists", **(request | {"SecretString": "[]"}))
    refused(create, "ResourceExistsException", "already exists", **(request | {"ClientRequestToken": "t" * 32}))
    refused(create, "InvalidParameterException", "Invalid name", Name="no:name", SecretString="x")
    refused(create, "InvalidParameterException", "65536", Name=f"{name}-large", SecretString="x" * 65_537)
    [told] = account.secrets.list_secrets(Filters=[{"Key": "name", "Values": [name[:-1]]}])["SecretList"]
    assert (told["ARN"], told["Tags"]) == (first["ARN"], [{"Key": "a", "Value": "b"}])
    assert account.secrets.list_secrets(Filters=[{"Key": "name", "Values": [name[1:]]}])["SecretList"] == []
    assert "SecretString" not in told


def test_a_deleted_secret_keeps_its_name_while_it_can_be_restored(account: Ecs) -> None:
    name = f"kept-{uuid.uuid4().hex}/x"
    account.secrets.create_secret(Name=name, SecretString="x")
    account.secrets.delete_secret(SecretId=name)
    filters = [{"Key": "name", "Values": [name]}]
    assert account.secrets.list_secrets(Filters=filters)["SecretList"] == []
    [told] = account.secrets.list_secrets(Filters=filters, IncludePlannedDeletion=True)["SecretList"]
    assert told["DeletedDate"] is not None
    refused(account.secrets.get_secret_value, "InvalidRequestException", "marked for deletion", SecretId=name)
    refused(account.secrets.create_secret, "InvalidRequestException", "scheduled", Name=name, SecretString="y")
    account.secrets.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
    account.secrets.create_secret(Name=name, SecretString="y")


def test_lists_of_secrets_have_pages(account: Ecs) -> None:
    prefix = f"pages-{uuid.uuid4().hex}/"
    for number in range(5):
        account.secrets.create_secret(Name=f"{prefix}{number}", SecretString="x")
    pages = account.secrets.get_paginator("list_secrets").paginate(
        Filters=[{"Key": "name", "Values": [prefix]}], PaginationConfig={"PageSize": 2}
    )
    assert [[one["Name"] for one in page["SecretList"]] for page in pages] == [
        [f"{prefix}0", f"{prefix}1"],
        [f"{prefix}2", f"{prefix}3"],
        [f"{prefix}4"],
    ]


def test_an_execution_role_is_told(account: Ecs) -> None:
    found = account.ecs.describe_task_definition(taskDefinition=account.definition(READY))["taskDefinition"]
    assert found["executionRoleArn"] == ROLE
