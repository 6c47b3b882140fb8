"""A power supply on a serial line, as its maker might have written it. It knows nothing of ether."""

import os
import select
import termios
import tty


class PowerSupply:
    """Speaks one line of text per command, such as ``VOLT 5`` or ``MEAS?``."""

    def __init__(self, port: str, timeout_s: float = 2.0) -> None:
        self.timeout_s = timeout_s
        self._line = os.open(port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._line, termios.TCSANOW)

    def identify(self) -> str:
        return self._ask("*IDN?")

    def set_volts(self, volts: float) -> None:
        self._write(f"VOLT {volts}")

    def measure(self) -> dict[str, float]:
        return {"volts": float(self._ask("MEAS?"))}

    def close(self) -> None:
        """Leave the output off, whatever happened before."""
        self._write("OUTP OFF")
        os.close(self._line)

    def _write(self, command: str) -> None:
        os.write(self._line, command.encode() + b"\n")

    def _ask(self, command: str) -> str:
        self._write(command)
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([self._line], [], [], self.timeout_s)[0]:
                raise TimeoutError(f"no answer to {command} within {self.timeout_s:g} s")
            answer += os.read(self._line, 256)
        return answer.decode().strip()
