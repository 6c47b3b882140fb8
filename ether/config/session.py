"""Session: what it is called, and its limits."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from ether import topics
from ether.config.section import Section
from ether.config.values import Duration, Flag

__all__ = ["Session"]


def _session_name(text: str) -> str:
    if not text or text.startswith(".") or not text.isprintable() or set(text) & set('/\\:*?"<>|'):
        raise ValueError(f"{text!r} cannot name a session; it becomes a file name: letters, digits, `-`, `_`, `.`")
    return text


def _namespace(text: str) -> str:
    if text:
        topics.check_topic(text)
    if text.startswith("/") or text.endswith("/"):
        raise ValueError(f"{text!r} begins or ends with `/`; the slash after a namespace is put by ether")
    return text


class Session(Section):
    """One launched configuration."""

    name: Annotated[str, AfterValidator(_session_name)] = Field(
        default="session",
        description="What it is called; naming a session that runs here, or at `broker.url`, joins it.",
    )
    namespace: Annotated[str, AfterValidator(_namespace)] = Field(
        default="", description="Put before every topic, so that two systems can share a broker."
    )
    data: Path = Field(default=Path("data"), description="Folder for recordings, seen from the working directory.")
    start_timeout: Duration = Field(default=30.0, description="How long all instances may take to become ready.")
    stop_timeout: Duration = Field(default=10.0, description="How long all instances may take to stop in order.")
    reload: Flag = Field(default=False, description="Start an instance again when source that it imports is edited.")

    @property
    def name_given(self) -> bool:
        """Whether the configuration names the session, which may mean joining a running one."""
        return "name" in self.model_fields_set
