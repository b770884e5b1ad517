# SPDX-License-Identifier: GPL-2.0-or-later
"""The Kubernetes manifests: valid for the API, and no more privileged than the unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dynstack_probe import __version__
from tests import ROOT

kubernetes_validate = pytest.importorskip("kubernetes_validate")
MANIFESTS = ROOT / "packaging/kubernetes"
UNIT = ROOT / "packaging/dynstack-probe.service"
# the oldest and the newest API that we have schemas of and that a cluster may speak
VERSIONS = ("1.25", kubernetes_validate.latest_version())


def manifest(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text())
    return document


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("daemonset.yaml")["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["namespace.yaml", "daemonset.yaml"])
def test_the_api_accepts_it(name: str, version: str) -> None:
    kubernetes_validate.validate(manifest(name), version, strict=True)


def test_the_check_refuses_an_unknown_field() -> None:
    document = manifest("daemonset.yaml")
    document["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


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
