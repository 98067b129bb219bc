"""The HTTP surface: both vendors' forms over one engine, with limits, usage and audit.

Public: `app.create_app`, `server.run_server`, `service.Service`, `settings.Settings`.
"""
