"""The database of models, versions, aliases and their history; SQLite by default, PostgreSQL when shared."""
