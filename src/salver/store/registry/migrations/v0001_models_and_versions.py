"""Models, versions, aliases, audit trail, nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From an empty database."""
    _create_counter()
    _create_models()
    _create_versions()
    _create_aliases()
    _create_audit()
    _create_nodes()


def _name(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _moment() -> sa.DateTime:
    return sa.DateTime(timezone=True)


def _create_counter() -> None:
    table = op.create_table(
        "registry",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registry"),
    )
    op.bulk_insert(table, [{"id": 1, "revision": 0}])


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("name", _name(128), nullable=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("aliases_revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.create_index("ix_models_aliases_revision", "models", ["aliases_revision"])


def _create_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("name", _name(128), nullable=False),
        sa.Column("version", _name(64), nullable=False),
        sa.Column("sort_key", _name(160), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("runtime", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("framework", sa.Text, nullable=False),
        sa.Column("framework_version", sa.Text, nullable=False),
        sa.Column("algorithm", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("properties", sa.Text, nullable=False),
        sa.Column("signature", sa.Text),
        sa.Column("probe", sa.Text),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("updated_at", _moment(), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("claimed_by", sa.Text),
        sa.Column("claimed_until", _moment()),
        sa.PrimaryKeyConstraint("name", "version", name="pk_versions"),
        sa.ForeignKeyConstraint(["name"], ["models.name"], name="fk_versions_models"),
        sa.UniqueConstraint("name", "sort_key", name="uq_versions_name_sort_key"),
        sa.UniqueConstraint("revision", name="uq_versions_revision"),
    )
    op.create_index("ix_versions_state", "versions", ["state"])
    op.create_table(
        "version_tags",
        sa.Column("name", _name(128), nullable=False),
        sa.Column("version", _name(64), nullable=False),
        sa.Column("tag", _name(128), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", "version", "tag", name="pk_version_tags"),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["versions.name", "versions.version"], name="fk_version_tags_versions"
        ),
    )
    op.create_index("ix_version_tags_tag_value_name", "version_tags", ["tag", "value", "name"])


def _create_aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("name", _name(128), nullable=False),
        sa.Column("alias", _name(64), nullable=False),
        sa.Column("version", _name(64), nullable=False),
        sa.PrimaryKeyConstraint("name", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"], name="fk_aliases_versions"),
    )
    op.create_index("ix_aliases_name_version", "aliases", ["name", "version"])


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("revision", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("at", _moment(), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("name", _name(128), nullable=False),
        sa.Column("version", _name(64), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("revision", name="pk_audit"),
    )
    op.create_index("ix_audit_name_revision", "audit", ["name", "revision"])


def _create_nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("node_id", _name(128), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("budget_bytes", sa.BigInteger, nullable=False),
        sa.Column("used_bytes", sa.BigInteger, nullable=False),
        sa.Column("loaded", sa.Text, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("seen_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_nodes"),
    )
