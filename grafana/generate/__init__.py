"""The dashboards of grafana/dashboards, as code: one module a dashboard."""
