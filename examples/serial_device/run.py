"""Drive a serial instrument that YAML alone made a component; its other end is simulated here."""

import os
import queue
from pathlib import Path

from simulator import Simulator

from ether import Reading, ether

readings: queue.Queue[Reading] = queue.Queue()
simulator = Simulator()
os.environ["SUPPLY_PORT"] = simulator.port  # with a real supply: its own port, and nothing else changes

with ether.session(Path(__file__).with_name("session.yaml")) as lab:
    print("identified:", lab.get("supply", "identify"))
    lab.subscribe("bench/supply", readings.put)
    lab.start()
    lab.pub({"volts": 5.0}, "bench/volts")
    while readings.get(timeout=20).fields["volts"] != 5.0:
        pass
    print("measured: 5.0 V")

print("left switched off:", simulator.switched_off.wait(10) and simulator.commands[-1])
