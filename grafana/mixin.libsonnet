// SPDX-License-Identifier: GPL-2.0-or-later
// Dashboards, recording rules and alerts as one set, as other monitoring mixins have them:
//
//     local dynstack = (import 'mixin.libsonnet') + {
//       _config+:: { grafanaURL: 'https://grafana.example' },
//     };
local rules(text) = std.parseYaml(text).groups;

(import 'config.libsonnet') {
  local shipped = 'http://127.0.0.1:3000',

  grafanaDashboardFolder:: 'Dynamic kernel stacks',
  grafanaDashboards+:: {
    'dynstack-host.json': import 'dashboards/host.json',
    'dynstack-fleet.json': import 'dashboards/fleet.json',
    'dynstack-cgroup.json': import 'dashboards/cgroup.json',
    'dynstack-policies.json': import 'dashboards/policies.json',
    'dynstack-runbooks.json': import 'dashboards/runbooks.json',
  },

  prometheusRules+:: {
    groups+: rules(importstr 'rules/dynstack-recording.yml'),
  },

  prometheusAlerts+:: {
    groups+: rules(std.strReplace(
      importstr 'rules/dynstack-alerts.yml', shipped, $._config.grafanaURL
    )),
  },
}
