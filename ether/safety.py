"""Safety: which instances can make their hardware safe, how that is done for a lost one, and where it failed."""

from __future__ import annotations

import logging
import subprocess

from ether import clock
from ether.supervisor import Child, Launcher, how

__all__ = ["Safety"]

logger = logging.getLogger("ether")


class Safety:
    """Of the instances of one session."""

    def __init__(self, launcher: Launcher) -> None:
        self.failed: dict[str, str] = {}
        """Instances whose hardware could not be made safe, to what is to be said of it."""
        self._launcher = launcher
        self._within_s: dict[str, float] = {}

    def learn(self, name: str, within_s: float) -> None:
        """Take note of an instance that knows how to make its hardware safe, and of the time it may take."""
        self._within_s[name] = within_s

    def knows(self, name: str) -> bool:
        return name in self._within_s

    def wait(self, child: Child) -> None:
        """Wait until a process has ended, and its hardware has been made safe where that is left to do."""
        clock.wait_for(child.ended, self._within_s.get(child.name, 0.0) + 2.0)

    def make(self, child: Child) -> None:
        """Have a new object of the class run its `ether_safe` hooks in a process of its own; the lost one cannot."""
        self.failed.pop(child.name, None)
        within = self._within_s.get(child.name)
        if within is None:
            return
        popen = self._launcher.spawn("ether.session", f"{child.name}-safe")
        try:
            self._launcher.give_orders(popen, {**child.orders, "only_safe": True})
            code = popen.wait(within)
            why = "" if code == 0 else how(code)
        except subprocess.TimeoutExpired:
            why = f"not done within {within:g} s"
        except BrokenPipeError:
            why = "its process died before it began"
        finally:
            popen.kill()
            popen.communicate()
        if why:
            logger.critical("%s", self.fail(child.name, f" ({why})"))
        else:
            logger.warning("%s: the hardware was brought to a safe state", child.name)

    def fail(self, name: str, why: str = "") -> str:
        """Take note that this instance's hardware is not safe; return that in words."""
        self.failed[name] = f"{name} could not be brought to a safe state{why}: look after the hardware"
        return self.failed[name]
