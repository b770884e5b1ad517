# SPDX-License-Identifier: GPL-2.0-or-later
"""The dashboards of grafana/dashboards, as code: one module a dashboard."""
