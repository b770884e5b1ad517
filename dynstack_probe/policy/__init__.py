"""Models of kernel-stack allocators: pure functions of stack depths in pages.

All built-in ones are instances of the parametrised classes in `models`.
"""

from __future__ import annotations

from dynstack_probe.policy.custom import policy_from
from dynstack_probe.policy.models import BUILT_IN, FixedSize, GrowOnly, Policy
from dynstack_probe.policy.shapes import Shape, ShapeCounts, count_shapes

__all__ = [
    "BUILT_IN",
    "FixedSize",
    "GrowOnly",
    "Policy",
    "Shape",
    "ShapeCounts",
    "count_shapes",
    "policy_from",
]
