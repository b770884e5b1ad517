"""Models of kernel-stack allocators: pure functions from stack depths to an Estimate.

A policy sees depths in pages only, imports nothing that touches a kernel and does no
I/O. All built-in ones are instances of the parametrised classes in `models`.
"""

from __future__ import annotations

from dynstack_probe.policy.estimate import Estimate, FaultRange, Group, estimate, group_by
from dynstack_probe.policy.models import BUILT_IN, FixedSize, GrowOnly, Policy
from dynstack_probe.policy.shapes import Shape, ShapeCounts, count_shapes

__all__ = [
    "BUILT_IN",
    "Estimate",
    "FaultRange",
    "FixedSize",
    "Group",
    "GrowOnly",
    "Policy",
    "Shape",
    "ShapeCounts",
    "count_shapes",
    "estimate",
    "group_by",
]
