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
    website_instance_id: str | None = Field(default=None, description="Set by Azure alone.")
    website_pod_name: str | None = Field(default=None, description="Set by Azure alone, on its Flex Consumption plan.")
    container_name: str | None = Field(default=None, description="Set by Azure on its Consumption plan for Linux.")
    website_site_name: str | None = Field(default=None, description="Set by Azure alone.")
    managed_environment: str | None = Field(default=None, description="Set by Azure alone, on Azure Container Apps.")
    website_auth_enabled: str | None = Field(
        default=None,
        description="Set by Azure alone: True where App Service Authentication is switched on.",
    )
    public_url: HttpUrl | None = Field(
        default=None,
        description="The address that people reach the app by, where it is not https://WEBSITE_HOSTNAME.",
    )
    approval_requests_to: str = Field(
        default="approvals@example.com",
        pattern=r"\A[^\s@<>()\[\],;:\\\"]+@[^\s@<>()\[\],;:\\\"]*[^\s@<>()\[\],;:\\\".]\z",
        description="Who is asked to approve when a request names nobody: one mail address.",
    )
    purchase_order_timeout_hours: float = Field(
        default=24,
        gt=0,
        le=365 * 24,
        allow_inf_nan=False,
        description="How long a purchase order waits for its approval, in hours.",
    )
    interventions_to: str = Field(
        default="operators@example.com",
        pattern=r"\A[^\s@<>()\[\],;:\\\"]+@[^\s@<>()\[\],;:\\\"]*[^\s@<>()\[\],;:\\\".]\z",
        description="Who is asked when a call has failed that names nobody: one mail address.",
    )
    call_hosts: str = Field(
        default="",
        max_length=4000,
        description="The hosts that may be called, with commas between them; host:port for other ports.",
    )
    refund_api: HttpUrl | None = Field(
        default=None,
        description="The address of the refund API. Without one, it is simulated.",
    )
    refund_ready_hours: float = Field(
        default=24,
        gt=0,
        le=365 * 24,
        allow_inf_nan=False,
        description="How long a refund waits until it is ready, in hours.",
    )
    signup_remind_hours: float = Field(
        default=24,
        gt=0,
        le=365 * 24,
        allow_inf_nan=False,
        description="After how many hours without a click somebody who signs up is reminded.",
    )
    signup_max_reminders: int = Field(default=3, ge=0, le=100, description="How often at most.")
    signup_quiet_hours: str = Field(
        default="21:00-08:00",
        pattern=r"\A(?:[01][0-9]|2[0-3]):[0-5][0-9]-(?:[01][0-9]|2[0-3]):[0-5][0-9]\z",
        description="When nobody is reminded, where a time zone is given.",
    )
    signup_timezone: str | None = Field(
        default=None,
        max_length=64,
        description="The time zone of the quiet hours, such as Europe/Berlin, for sign-ups that give none.",
    )
    signup_expiry_days: float = Field(
        default=7,
        gt=0,
        le=365,
        allow_inf_nan=False,
        description="After how many days a sign-up expires that nobody has verified.",
    )
    signup_resend_seconds: float = Field(
        default=60,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long somebody waits at least before the mail is sent again.",
    )
    signup_mails_per_address: int = Field(
        default=10,
        ge=1,
        le=1_000,
        description="How many mails of sign-ups go to one mailbox in a day, half for one client; as many reminders.",
    )
    signup_tries_per_client: int = Field(
        default=60,
        ge=1,
        le=1_000,
        description="How often in an hour one client may send the forms of the sign-up, and how often those of one "
        "sign-up may be sent; more are answered with 429.",
    )
    proxies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="How many proxies of yours stand before the app; each appends to X-Forwarded-For.",
    )
    decision_wait_seconds: float = Field(
        default=10,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="How long a decision waits for its verdict before it is answered with 202.",
    )

    max_pause_days: float = Field(
        default=7,
        gt=0,
        le=365,
        allow_inf_nan=False,
        description="How long a run may be paused, in days, where the pause does not say it.",
    )
    on_max_pause: Literal["resume", "cancel", "escalate"] = Field(
        default="escalate",
        description="What becomes of a run that is paused for longer: it goes on, is cancelled, or the operators are "
        "mailed every day.",
    )
    operators_to: str | None = Field(
        default=None,
        pattern=r"\A[^\s@<>()\[\],;:\\\"]+@[^\s@<>()\[\],;:\\\"]*[^\s@<>()\[\],;:\\\".]\z",
        description="Who is told of runs that are paused for long: one mail address. Without one, INTERVENTIONS_TO.",
    )

    auth: Literal["entra", "easyauth", "keys", "dev"] | None = Field(
        default=None,
        description="How callers are known: by tokens of Microsoft Entra ID (or another issuer), by App Service "
        "Authentication, by keys that the app has made, or not at all (dev: the default, and not on Azure).",
    )
    auth_issuer: str | None = Field(
        default=None,
        max_length=1000,
        description="For AUTH=entra: whose tokens count, written as in their claim iss.",
    )
    auth_audience: str | None = Field(
        default=None,
        max_length=4000,
        description="For AUTH=entra: for whom a token is made that counts (its claim aud); several with commas.",
    )
    auth_jwks_url: str | None = Field(
        default=None,
        max_length=1000,
        description="For AUTH=entra: where the issuer's keys are, if not where it says itself.",
    )
    auth_name_claim: str | None = Field(
        default=None,
        pattern=r"\A[A-Za-z0-9_.:/-]{1,100}\z",
        description="For AUTH=entra: the one claim by which callers are called, which the issuer lets nobody choose.",
    )

    mail: Literal["folder", "smtp", "acs"] = Field(
        default="folder",
        description="How mail is sent: into a folder of .eml files (not on Azure), by SMTP, or by Azure Communication "
        "Services.",
    )
    mail_from: str = Field(
        default="Countersign <countersign@example.com>",
        pattern=r"\A[^\r\n\x00]*[^\s@<>]+@[^\s@<>]+>?\z",
        max_length=300,
        description="The sender of the mails: an address, perhaps with a name before it.",
    )
    smtp_host: str | None = Field(default=None, description="The mail server, for MAIL=smtp.")
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = Field(default=587, description="Its port.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="How the connection is kept private. Without any, no password is sent.",
    )
    smtp_username: str | None = Field(default=None, description="Who logs in to the mail server, if anybody.")
    smtp_password: SecretStr | None = Field(default=None, description="With which password.")
    acs_connection: SecretStr | None = Field(
        default=None,
        description="For MAIL=acs: a connection string of Azure Communication Services, or its https address, which is "
        "then used with the identity of the app.",
    )
    link_keys: SecretStr | None = Field(
        default=None,
        description="Signs the links in mails: 32 characters or more; two with a comma between them, the newer first.",
    )
    callback_key: SecretStr | None = Field(
        default=None,
        description="Signs what is posted to callback addresses: 24 to 64 bytes in base64, perhaps after whsec_.",
    )
    callback_hosts: str = Field(
        default="",
        max_length=4000,
        description="The hosts that outcomes may be posted to, with commas between them; host:port for other ports.",
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

    @field_validator("refund_api")
    @classmethod
    def _can_be_added_to(cls, value: HttpUrl | None) -> HttpUrl | None:
        if value is not None and (
            value.username or value.password or value.query or value.fragment or len(str(value)) > 1_400
        ):
            raise ValueError("it has no user name, no query and no fragment, and up to 1,400 characters")
        return value

    @field_validator("audit_key")
    @classmethod
    def _each_key_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and any(len(key.strip()) < 16 for key in value.get_secret_value().split(",")):
            raise ValueError("each key needs 16 characters or more")
        return value

    @field_validator("link_keys")
    @classmethod
    def _both_keys_are_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            keys = value.get_secret_value().split(",")
            if len(keys) > 2 or any(len(key.strip()) < 32 for key in keys):
                raise ValueError("one key or two, each of 32 characters or more")
        return value

    @property
    def is_on_azure(self) -> bool:
        """Whether the app runs on Azure, and not on somebody's machine.

        As Azure's own host knows it (``EnvironmentExtensions``): its plans do not all set the same variable. The name
        of a container alone can stand on any machine.
        """
        in_container = self.container_name is not None and self.website_site_name is not None
        alone = (self.website_instance_id, self.website_pod_name, self.managed_environment)
        return in_container or any(each is not None for each in alone)

    @property
    def signs_people_in(self) -> bool:
        """Whether App Service Authentication stands before the app."""
        return self.is_on_azure and (self.website_auth_enabled or "").strip().lower() == "true"

    @property
    def operators(self) -> str:
        """Who is told of runs that are paused for long."""
        return self.operators_to or self.interventions_to

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
