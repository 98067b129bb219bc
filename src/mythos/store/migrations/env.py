"""Alembic's entry: the connection and its transaction come from `mythos.store.migrate`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=False)
context.run_migrations()
