"""Who asks, and what they may: service accounts' own tokens, and roles on projects, datasets and tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.auth import exceptions, jwt

from tests.bigquery.statements import TableName

SCOPES = frozenset(
    f"https://www.googleapis.com/auth/{name}" for name in ("bigquery", "bigquery.readonly", "cloud-platform")
)
AUDIENCES = frozenset(
    f"https://{name}.googleapis.com{end}" for name in ("bigquery", "bigquerystorage") for end in ("", "/")
)
_SEE = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. See"
    " https://developers.google.com/identity/sign-in/web/devconsole-project."
)
NO_TOKEN = f"Request is missing required authentication credential. {_SEE}"
BAD_TOKEN = f"Request had invalid authentication credentials. {_SEE}"

# https://cloud.google.com/bigquery/docs/access-control
ROLES = {
    "dataViewer": {
        *("bigquery.datasets.get", "bigquery.tables.get", "bigquery.tables.getData", "bigquery.tables.list"),
    },
    "metadataViewer": {"bigquery.datasets.get", "bigquery.tables.get", "bigquery.tables.list"},
    "dataEditor": {
        *("bigquery.datasets.get", "bigquery.datasets.create", "bigquery.tables.get", "bigquery.tables.getData"),
        *("bigquery.tables.list", "bigquery.tables.create", "bigquery.tables.update", "bigquery.tables.updateData"),
        "bigquery.tables.delete",
    },
    "jobUser": {"bigquery.jobs.create"},
    "readSessionUser": {
        *("bigquery.readsessions.create", "bigquery.readsessions.getData", "bigquery.readsessions.update"),
    },
}


class Unauthenticated(Exception):
    """No token, or one that does not prove who sends it."""


class Denied(Exception):
    """The words with which BigQuery refuses."""


@dataclass
class Roles:
    """Public keys and roles of service accounts; without any key, everyone may do everything."""

    _keys: dict[str, str] = field(default_factory=dict)
    _granted: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def trust(self, email: str, public_key: str) -> None:
        """From now on tokens are needed; those of `email` are signed with the key of this PEM text."""
        self._keys[email] = public_key

    def grant(self, email: str, role: str, on: str = "") -> None:
        """`on` is a dataset, `dataset.table`, or empty for the whole project."""
        self._granted.setdefault(email, set()).update((permission, on) for permission in ROLES[role])

    def revoke(self, email: str) -> None:
        """Take all roles away."""
        self._granted.pop(email, None)

    def identify(self, authorization: str) -> str:
        """The account that signed the token; empty when none is asked for. Raises Unauthenticated."""
        if not self._keys:
            return ""
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Unauthenticated(NO_TOKEN)
        try:
            email = str(jwt.decode(token, verify=False).get("iss", ""))
            claims = jwt.decode(token, certs=self._keys.get(email, ""), clock_skew_in_seconds=10)
        except (exceptions.GoogleAuthError, ValueError) as error:
            raise Unauthenticated(BAD_TOKEN) from error
        scopes = set(str(claims.get("scope", "")).split())
        if claims.get("sub") != email or not (scopes & SCOPES or claims.get("aud") in AUDIENCES):
            raise Unauthenticated(BAD_TOKEN)
        return email

    def may(self, who: str, permission: str, dataset: str = "", table: str = "") -> bool:
        places = {"", dataset, f"{dataset}.{table}"}
        return not self._keys or any((permission, place) in self._granted.get(who, ()) for place in places)

    def check_project(self, who: str, permission: str, project: str) -> None:
        if not self.may(who, permission):
            raise Denied(
                f"Access Denied: Project {project}: User does not have {permission} permission in project {project}."
            )

    def check_dataset(self, who: str, permission: str, project: str, dataset: str) -> None:
        if not self.may(who, permission, dataset):
            name = f"{project}:{dataset}"
            raise Denied(
                f"Access Denied: Dataset {name}: Permission {permission} denied on dataset {name}"
                " (or it may not exist)."
            )

    def check_table(self, who: str, permission: str, name: TableName) -> None:
        if self.may(who, permission, name.dataset, name.table):
            return
        if permission == "bigquery.tables.getData":
            raise Denied(f"Access Denied: Table {name}: User does not have {permission} permission for table {name}.")
        raise Denied(
            f"Access Denied: Table {name}: Permission {permission} denied on table {name} (or it may not exist)."
        )

    def check_query(self, who: str, name: TableName) -> None:
        if not self.may(who, "bigquery.tables.getData", name.dataset, name.table):
            raise Denied(
                f"Access Denied: Table {name}: User does not have permission to query table {name},"
                " or perhaps it does not exist."
            )

    def check_session(self, who: str, permission: str, project: str) -> None:
        if not self.may(who, permission):
            raise Denied(f"request failed: the user does not have '{permission}' permission for 'projects/{project}'")
