"""Settings: every environment variable that the app reads, its type, and its default.

On Azure these are application settings; locally they stand in ``local.settings.json`` or in the environment.
"""

import tempfile
from functools import lru_cache
from pathlib import Path

from pydantic import Field, HttpUrl
from pydantic_settings import BaseSettings, SettingsConfigDict


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
