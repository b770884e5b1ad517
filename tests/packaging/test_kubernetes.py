# SPDX-License-Identifier: GPL-2.0-or-later
"""The Kubernetes manifests: valid by their schemas, and no more privileged than the unit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from dynstack_probe import __version__
from tests import ROOT
from tests.packaging.kubernetes_schemas import KUSTOMIZATION, POD_MONITOR
from tests.tools import needs

kubernetes_validate = pytest.importorskip("kubernetes_validate")
MANIFESTS = ROOT / "packaging/kubernetes"
UNIT = ROOT / "packaging/dynstack-probe.service"
# the oldest and the newest API that we have schemas of and that a cluster may speak
VERSIONS = ("1.25", kubernetes_validate.latest_version())
NAMES = sorted(path.name for path in MANIFESTS.glob("*.yaml"))
OTHER_KINDS = {"PodMonitor": POD_MONITOR, "Kustomization": KUSTOMIZATION}
FREE = ("labels", "matchLabels", "nodeSelector", "requests", "limits")  # whose keys are
Place = tuple[str | int, ...]


def manifest(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text())
    return document


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("daemonset.yaml")["spec"]["template"]["spec"]
    return spec


def refused(document: Mapping[str, Any], version: str = VERSIONS[-1]) -> str | None:
    """Why the schema of its kind does not take it; None if it does."""
    own = OTHER_KINDS.get(document.get("kind", ""))
    try:
        if own is not None:
            Draft202012Validator(own).validate(document)
        else:
            kubernetes_validate.validate(document, version, strict=True)
    except (ValidationError, kubernetes_validate.ValidationError) as error:
        return str(error.message)
    return None


def names_of_fields(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where each field is, but for keys that are free."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield (*at, name)
            if name not in FREE:
                yield from names_of_fields(inside, (*at, name))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from names_of_fields(inside, (*at, number))


def mistyped(document: dict[str, Any], place: Place) -> dict[str, Any]:
    """The same, a field's name with its last letter doubled."""
    copy = deepcopy(document)
    parent: Any = copy
    for step in place[:-1]:
        parent = parent[step]
    parent[f"{place[-1]}{str(place[-1])[-1]}"] = parent.pop(place[-1])
    return copy


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_the_schema_accepts_it(name: str, version: str) -> None:
    assert refused(manifest(name), version) is None


@pytest.mark.parametrize(
    ("name", "place"),
    [
        pytest.param(name, place, id=f"{name}:{'.'.join(map(str, place))}")
        for name in NAMES
        for place in names_of_fields(manifest(name))
        if place not in (("apiVersion",), ("kind",))  # which say what schema there is
    ],
)
def test_a_mistyped_field_is_refused(name: str, place: Place) -> None:
    assert refused(mistyped(manifest(name), place))


@needs("kubectl", "kubernetes-client")
def test_what_kubectl_makes_of_it() -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", str(MANIFESTS)], capture_output=True, text=True, check=True
    ).stdout
    documents = {document["kind"]: document for document in yaml.safe_load_all(made)}
    assert sorted(documents) == ["DaemonSet", "Namespace", "PodMonitor"]
    for document in documents.values():
        assert refused(document) is None
    (image,) = manifest("kustomization.yaml")["images"]
    (container,) = documents["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{image['newName']}:{image['newTag']}"
    namespace = documents.pop("Namespace")["metadata"]["name"]
    assert {one["metadata"]["namespace"] for one in documents.values()} == {namespace}


def test_keys_that_the_schema_leaves_free_are_right() -> None:
    (container,) = pod()["containers"]
    for amounts in container["resources"].values():
        assert set(amounts) <= {"cpu", "memory"}
    assert pod()["nodeSelector"] == {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    labels = manifest("namespace.yaml")["metadata"]["labels"]
    assert labels == {"pod-security.kubernetes.io/enforce": "privileged"}


def test_kustomization_names_every_manifest_and_this_version() -> None:
    document = manifest("kustomization.yaml")
    others = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(document["resources"]) == others
    (image,) = document["images"]
    (container,) = pod()["containers"]
    assert image["name"] == container["image"]
    assert image["newTag"] == __version__


def test_capabilities_are_those_of_the_unit() -> None:
    (container,) = pod()["containers"]
    granted = container["securityContext"]["capabilities"]
    names = " ".join(f"CAP_{name}" for name in granted["add"])
    assert granted["drop"] == ["ALL"]
    assert f"CapabilityBoundingSet={names}" in UNIT.read_text().splitlines()
    assert "privileged" not in container["securityContext"]


def test_host_paths_are_read_only() -> None:
    (container,) = pod()["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    for volume in pod()["volumes"]:
        mount = mounts.pop(volume["name"])
        assert Path(volume["hostPath"]["path"]) == Path(mount["mountPath"])
        assert mount["readOnly"] is True
    assert mounts == {}


def test_the_monitor_finds_the_pods() -> None:
    monitor = manifest("podmonitor.yaml")["spec"]
    template = manifest("daemonset.yaml")["spec"]["template"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
