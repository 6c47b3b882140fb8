"""The other end of the line: a pseudo-terminal with a power supply that exists in software only."""

import os
import threading
import tty


class Simulator:
    def __init__(self) -> None:
        self.commands: list[str] = []
        self.switched_off = threading.Event()
        self._volts = 0.0
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        self.port = os.ttyname(self._theirs)
        """What to open instead of ``/dev/ttyUSB0``."""
        threading.Thread(target=self._serve, name="simulator", daemon=True).start()

    def _serve(self) -> None:
        with open(self._ours, "rb", buffering=0, closefd=False) as line:
            while command := line.readline().decode().strip():
                self.commands.append(command)
                if command == "*IDN?":
                    self._answer("EXAMPLE,SUPPLY,0,1.0")
                elif command == "MEAS?":
                    self._answer(f"{self._volts:.3f}")
                elif command.startswith("VOLT "):
                    self._volts = float(command.removeprefix("VOLT "))
                elif command == "OUTP OFF":
                    self.switched_off.set()

    def _answer(self, text: str) -> None:
        os.write(self._ours, text.encode() + b"\n")
