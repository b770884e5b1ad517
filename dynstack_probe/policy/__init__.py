"""Models of kernel-stack allocators: pure functions from stack depths to an Estimate.

A policy sees depths in pages only, imports nothing that touches a kernel and does no
I/O. All built-in ones are instances of the parametrised classes in `models`.
"""

from __future__ import annotations

from dynstack_probe.policy.activity import Activity, Rate, collect, rate
from dynstack_probe.policy.custom import policy_from
from dynstack_probe.policy.depths import (
    depths_by_role,
    random_offset_price,
    shift_curve,
)
from dynstack_probe.policy.estimate import Estimate, FaultRange, Group, estimate, group_by
from dynstack_probe.policy.models import BUILT_IN, FixedSize, GrowOnly, Policy
from dynstack_probe.policy.shapes import Shape, ShapeCounts, count_shapes

__all__ = [
    "BUILT_IN",
    "Activity",
    "Estimate",
    "FaultRange",
    "FixedSize",
    "Group",
    "GrowOnly",
    "Policy",
    "Rate",
    "Shape",
    "ShapeCounts",
    "collect",
    "count_shapes",
    "depths_by_role",
    "estimate",
    "group_by",
    "policy_from",
    "random_offset_price",
    "rate",
    "shift_curve",
]
