// SPDX-License-Identifier: GPL-2.0-or-later
{
  _config+:: {
    // Where your Grafana is: alerts link to the Runbooks dashboard there.
    grafanaURL: 'http://127.0.0.1:3000',
  },
}
