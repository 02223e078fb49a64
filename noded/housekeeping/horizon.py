"""Who keeps VACUUM from removing dead rows of this server, as far back as anybody does.

Sessions, prepared transactions, and slots, which speak for standbys and for consumers of changes.  Functions behind the views
are asked, because the views join catalogs that a client can lock.  A slot does not tell since when; that is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from noded.postgres.clients import STREAMS
from noded.postgres.sessions import Session
from pgtopology.observation import Horizon, RowHolder

TIMEOUT_S = 2.0

_OLDEST = f"""
SELECT DISTINCT ON (catalog_only)
       kind, textsend(name) AS name, pid, xmin::text::int8 AS xmin, age(xmin) AS age, held_ms, catalog_only FROM (
  SELECT 'slot' AS kind, slot_name::text AS name, NULL::int4 AS pid, xmin, NULL::int8 AS held_ms, false AS catalog_only
    FROM pg_get_replication_slots()
  UNION ALL
  SELECT 'slot', slot_name::text, NULL, catalog_xmin, NULL, true FROM pg_get_replication_slots()
  UNION ALL
  SELECT 'prepared', gid, NULL, transaction, (extract(epoch FROM clock_timestamp() - prepared) * 1000)::int8, false
    FROM pg_prepared_xact()
  UNION ALL
  SELECT CASE WHEN {STREAMS} THEN 'standby' ELSE 'session' END, application_name, pid,
         CASE WHEN backend_xid IS NULL OR age(backend_xmin) > age(backend_xid) THEN backend_xmin ELSE backend_xid END,
         (extract(epoch FROM clock_timestamp() - xact_start) * 1000)::int8, false
    FROM pg_stat_get_activity(NULL)
   WHERE backend_type <> 'autovacuum worker' AND pid <> pg_backend_pid()
) AS holders WHERE xmin IS NOT NULL ORDER BY catalog_only, age(xmin) DESC
"""  # noqa: S608 - a condition of ours
"""The oldest for all rows, and the oldest for rows of the catalogs only. VACUUM does not mind other VACUUMs."""

CATALOG_AGE_MIN = 1_000_000
"""A logical slot keeps rows of the catalogs by its nature; only from so many transactions on it comes before other rows."""


class HorizonWatch:
    """Remembers since when the oldest has been the oldest."""

    def __init__(self) -> None:
        self._oldest: Horizon | None = None
        self._since = 0.0

    async def look(self, session: Session, now: float) -> None:
        """Find the oldest. Raises SessionError."""
        rows = await session.rows(_OLDEST, timeout_s=TIMEOUT_S)
        self.take(oldest_of([horizon_of(dict(row)) for row in rows]), now)

    def take(self, oldest: Horizon | None, now: float) -> None:
        """Go by *oldest* from *now* on."""
        if oldest is None or self._oldest is None or _who(oldest) != _who(self._oldest):
            self._since = now
        self._oldest = oldest

    def report(self, now: float) -> Horizon | None:
        """Return the oldest, held for as long as it says or as it has been seen."""
        oldest = self._oldest
        if oldest is None:
            return None
        seen_ms = int((now - self._since) * 1000)
        return Horizon(
            xmin=oldest.xmin,
            age_xids=oldest.age_xids,
            held_ms=max(oldest.held_ms, seen_ms),
            kind=oldest.kind,
            name=oldest.name,
            pid=oldest.pid,
            catalog_only=oldest.catalog_only,
        )

    def forget(self) -> None:
        """PostgreSQL is gone, or another one."""
        self._oldest = None


def oldest_of(found: Sequence[Horizon]) -> Horizon | None:
    """Return whom to name: of all rows, or of the catalogs' if those are very old, or nobody keeps others."""
    everything = next((one for one in found if not one.catalog_only), None)
    catalogs = next((one for one in found if one.catalog_only), None)
    if catalogs is None or everything is None:
        return everything or catalogs
    return catalogs if catalogs.age_xids >= CATALOG_AGE_MIN and catalogs.age_xids > everything.age_xids else everything


def horizon_of(row: Mapping[str, object]) -> Horizon:
    """Return one row of the question."""
    name = row["name"]
    held_ms, pid = row["held_ms"], row["pid"]
    return Horizon(
        xmin=int(str(row["xmin"])),
        age_xids=int(str(row["age"])),
        held_ms=int(str(held_ms)) if held_ms is not None else 0,
        kind=RowHolder(str(row["kind"])),
        name=name.decode(errors="replace") if isinstance(name, bytes) else str(name or ""),
        pid=int(str(pid)) if pid is not None else None,
        catalog_only=bool(row["catalog_only"]),
    )


def _who(one: Horizon) -> tuple[int, RowHolder, str, int | None]:
    return one.xmin, one.kind, one.name, one.pid
