"""What lies on disk: the home and key directories, the session file, and the SQLite database.

Public: `store.home.Home`, `store.session`, `store.db.Store`, and one module for each table: `keys`,
`weights`, `usage`. `home`, `session` and `operator_key` do without SQLAlchemy.
"""
