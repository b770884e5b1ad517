# SPDX-License-Identifier: GPL-2.0-or-later
"""Schemas of the two kinds of manifest that are not the API's own.

Excerpts, by hand, of the definitions named below: what our manifests use and what is beside it.
Unlike these they are closed, so that a mistyped field is refused.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "array", "items": TEXT, "minItems": 1}
TEXT_BY_NAME: Schema = {"type": "object", "additionalProperties": TEXT}


def closed(properties: Schema, *required: str) -> Schema:
    """An object that has no other fields."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


# prometheus-operator 0.91.0, example/prometheus-operator-crd/,
# monitoring.coreos.com_podmonitors.yaml
RELABELING = closed(
    {
        "action": {
            "enum": [
                "replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep",
                "lowercase", "uppercase", "keepequal", "dropequal",
            ]
        },
        "regex": TEXT,
        "replacement": TEXT,
        "separator": TEXT,
        "sourceLabels": TEXTS,
        "targetLabel": TEXT,
    }
)  # fmt: skip
DURATION: Schema = {
    "type": "string",
    "pattern": r"^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
}
POD_MONITOR = closed(
    {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": closed({"name": TEXT, "namespace": TEXT, "labels": TEXT_BY_NAME}, "name"),
        "spec": closed(
            {
                "jobLabel": TEXT,
                "podTargetLabels": TEXTS,
                "selector": closed({"matchLabels": TEXT_BY_NAME}),
                "podMetricsEndpoints": list_of(
                    closed(
                        {
                            "port": TEXT,
                            "path": TEXT,
                            "interval": DURATION,
                            "scrapeTimeout": DURATION,
                            "relabelings": list_of(RELABELING),
                            "metricRelabelings": list_of(RELABELING),
                        }
                    )
                ),
            },
            "selector",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)

# kustomize 5, api/types/kustomization.go and image.go, which refuse unknown fields themselves
KUSTOMIZATION = closed(
    {
        "apiVersion": {"const": "kustomize.config.k8s.io/v1beta1"},
        "kind": {"const": "Kustomization"},
        "namespace": TEXT,
        "resources": TEXTS,
        "images": list_of(
            closed({"name": TEXT, "newName": TEXT, "newTag": TEXT, "digest": TEXT}, "name")
        ),
    },
    "apiVersion",
    "kind",
    "resources",
)
