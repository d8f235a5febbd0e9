"""Settings: every environment variable that the app reads, its type, and its default.

On Azure these are application settings; locally they stand in ``local.settings.json`` or in the environment.
"""

import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, HttpUrl, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The settings of the app, read from the environment once per process.

    Raises ``pydantic.ValidationError`` naming each variable that cannot be read.
    """

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    local_host_data: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / "countersign",
        description="The folder for what the app writes locally. The local host hands it over.",
    )
    website_hostname: str = Field(
        default="127.0.0.1:7071",
        description="Host name and port of the app. Set by Azure and by the local host.",
    )
    public_url: HttpUrl | None = Field(
        default=None,
        description="The address that people reach the app by, where it is not https://WEBSITE_HOSTNAME.",
    )
    approval_requests_to: str = Field(
        default="approvals@example.com",
        pattern=r"\A[^\s@]+@[^\s@]+\z",
        description="Who is asked to approve when a request names nobody: one mail address.",
    )
    purchase_order_timeout_hours: float = Field(
        default=24,
        gt=0,
        le=365 * 24,
        allow_inf_nan=False,
        description="How long a purchase order waits for its approval, in hours.",
    )
    decision_wait_seconds: float = Field(
        default=10,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="How long a decision waits for its verdict before it is answered with 202.",
    )

    records: Literal["sqlite", "tables"] = Field(
        default_factory=lambda: "sqlite" if "LOCAL_HOST_DATA" in os.environ else "tables",
        description="Where waits and audit trails are kept: in the data folder, or in Azure Table Storage.",
    )
    records_connection: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "RECORDS_CONNECTION",
            "AzureWebJobsStorage",
            "AzureWebJobsStorage__tableServiceUri",
            "AzureWebJobsStorage__accountName",
        ),
        description="A storage account for RECORDS=tables: a connection string, or the https address of its table "
        "service, which is then opened with the identity of the app, or the account's name alone.",
    )
    records_table: str = Field(
        default="countersign",
        pattern=r"\A[A-Za-z][A-Za-z0-9]{2,62}\z",
        description="The table of the records. Two apps in one storage account need two.",
    )
    audit_key: SecretStr | None = Field(
        default=None,
        description="Seals what the app adds to audit trails. Several with commas between them: the first one seals.",
    )
    retention_days: Days = Field(
        default=90,
        description="How long an instance that has ended is kept, in days. Its audit trail stays.",
    )
    retention_days_by_workflow: dict[str, Days] = Field(
        default={},
        description="The same for single workflows, as a JSON object.",
    )

    @field_validator("audit_key")
    @classmethod
    def _each_key_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and any(len(key.strip()) < 16 for key in value.get_secret_value().split(",")):
            raise ValueError("each key needs 16 characters or more")
        return value

    @property
    def audit_keys(self) -> list[str]:
        """The keys that seal, newest first; none where there is no ``AUDIT_KEY``."""
        if self.audit_key is None:
            return []
        return [key.strip() for key in self.audit_key.get_secret_value().split(",")]

    @property
    def base_url(self) -> str:
        """The address of the app for links that people get, without a slash at its end.

        It never comes from a request's ``Host`` header, which anybody can forge.
        """
        if self.public_url is not None:
            return str(self.public_url).rstrip("/")
        local = self.website_hostname.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]")
        scheme = "http" if local else "https"
        return f"{scheme}://{self.website_hostname}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Read the settings, once."""
    return Settings()
