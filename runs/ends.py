"""The two ends of a run: opened with what is stored now, and the destination's fence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from connectors import registry
from connectors.base import Destination, Source
from connectors.billing import Meter
from connectors.errors import ConnectorError
from connectors.writing import Fence, Owner
from pipelines.fields import KeyLost
from pipelines.models import Connection
from runs import services
from runs.lease import Lease
from runs.services import Claim, PartClaim
from runs.values import target_of

# Connecting and raising the fence have time limits of their own, which add up to less than this.
FENCE_S = 30.0


Claimed = Claim | PartClaim


def connections(claimed: Claimed) -> Mapping[UUID, Connection]:
    """Both ends' connections by id, as they are stored now; one that was deleted is not among them."""
    both = [UUID(claimed.definition[end]["connection"]) for end in ("source", "destination")]
    # The text that a queryset would make of it anew for each run.
    found = Connection.objects.raw("SELECT * FROM pipelines_connection WHERE id IN %s", [tuple(both)])
    return {connection.pk: connection for connection in found}


def open_source(claimed: Claimed, known: Mapping[UUID, Connection], meter: Meter) -> Source:
    """The source, which tells the `meter` what it bills."""
    kind, options = _options("source", claimed, known)
    source = registry.source_type(kind)(options)
    source.meter = meter
    return source


def open_destination(claimed: Claimed, known: Mapping[UUID, Connection]) -> Destination:
    kind, options = _options("destination", claimed, known)
    return registry.destination_type(kind)(options)


def _options(end: str, claimed: Claimed, known: Mapping[UUID, Connection]) -> tuple[str, Any]:
    """Kind and options of one end, as they are stored now."""
    found = known.get(UUID(claimed.definition[end]["connection"]))
    if found is None:
        raise ConnectorError(f"The {end} connection was deleted.", code="connection_missing", field=end)
    try:
        return found.kind, found.typed_options()
    except KeyLost as error:
        raise ConnectorError(
            str(error),
            code="encryption_key_lost",
            hint="Put the old key back into ENCRYPTION_KEYS, or enter the connection's secrets again.",
            field=end,
        ) from error


_installation_id: UUID | None = None


def _installation() -> UUID:
    global _installation_id
    if _installation_id is None:
        _installation_id = services.installation_id()
    return _installation_id


def fence_of_part(claimed: PartClaim) -> Fence:
    """The fence that the plan was made under, or that was raised since by who found parts undone."""
    owner = Owner(_installation(), claimed.pipeline, claimed.run, claimed.token)
    return Fence(target_of(claimed), owner, claimed.fence_token, last_run=None, fingerprint="", applied=None)


def raise_fence(claimed: Claim, destination: Destination, lease: Lease) -> Fence:
    """Become the only one who can commit. A wish to stop does not stop it: how the run stands is asked first."""
    target, adopt = target_of(claimed), claimed.definition["destination"]["adopt"]
    owner = Owner(_installation(), claimed.pipeline, claimed.run, claimed.token)
    with lease.patience(FENCE_S):
        lease.check_ownership()
        fence = destination.raise_fence(target, owner, adopt=adopt)
        # Leases go by clocks, which may have stood still with their machine. Who owns the run now, with the fence
        # raised, was the last to raise it: a later owner raises it again, and this one can then commit no more.
        lease.obey(services.read_flags(claimed.run, claimed.token, process=lease.process))
        lease.check_ownership()
    return fence
