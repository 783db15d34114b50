"""The schema of the ledger and its versions: `migrate` brings a database to ours, `check` refuses
any other."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError

from node import migrations
from node.errors import Retry, Stop
from node.ledger.database import connect


def configuration() -> Config:
    """Alembic's configuration, without a file: our scripts, nothing of the site."""
    config = Config()
    folder = str(Path(migrations.__file__).parent)
    config.set_main_option("script_location", folder.replace("%", "%%"))
    return config


def expected_version() -> str:
    """The newest schema version this program knows.

    Raises:
        Stop: When the migrations were not installed with the program.
    """
    head = ScriptDirectory.from_config(configuration()).get_current_head()
    if head is None:
        raise Stop("the ledger's migrations are missing from this installation; reinstall it")
    return head


def migrate(url: str) -> None:
    """Bring the database at `url` to our schema, all steps in one transaction; harmless when it
    is there already.

    Raises:
        Stop: When the database was made by a newer program.
        Retry: When it does not answer.
    """
    engine = connect(url)
    try:
        found = _found_version(engine)
        known = {script.revision for script in _scripts().walk_revisions()}
        if found is not None and found not in known:
            raise Stop(_mismatch(found))
        config = configuration()
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def check(engine: Engine) -> None:
    """Refuse a database whose schema is not ours.

    Raises:
        Stop: Naming both versions and what to do.
        Retry: When the database does not answer.
    """
    found = _found_version(engine)
    if found != expected_version():
        raise Stop(_mismatch(found))


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(configuration())


def _found_version(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except DBAPIError as error:
        doubt = "Is it running, and does node.database_url name it?"
        raise unanswered(error, engine.url, doubt) from error


def unanswered(error: DBAPIError, url: URL, doubt: str) -> Retry:
    """What is said of a database that is away or turns us away; no password.

    Args:
        error: Of the driver.
        url: Of the database.
        doubt: What whoever reads it should look at.
    """
    return Retry(
        f"expected the ledger's database at {_place(url)} to answer: {_said(error, url)}. {doubt}"
    )


def _place(url: URL) -> str:
    """Which database that is, without its password."""
    shown = {key: value for key, value in url.query.items() if key in ("host", "port")}
    return url.set(query=shown).render_as_string(hide_password=True)


def _said(error: DBAPIError, url: URL) -> str:
    """What the driver said first."""
    said = str(error.orig).strip().partition("\n")[0].rstrip(".")
    for secret in (url.password, url.query.get("password")):
        if secret:
            said = said.replace(str(secret), "***")
    return said


def _mismatch(found: str | None) -> str:
    return (
        f"ledger schema: expected version {expected_version()}, found {found or 'none'}. "
        "A newer database needs the newer program; an older one is migrated by `pseudomri serve`."
    )
