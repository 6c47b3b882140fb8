"""Wire classes that nobody edited: the YAML alone says what is published, handled and answered."""

import queue
from pathlib import Path

from ether import Reading, ether

readings: queue.Queue[Reading] = queue.Queue()

with ether.session(Path(__file__).with_name("session.yaml")) as lab:
    lab.subscribe("lab/incubator", readings.put)
    lab.start()
    lab.pub({"celsius": 37.0}, "lab/target")
    while readings.get(timeout=20).fields["celsius"] < 36.5:
        pass
    print("incubator:", lab.get("incubator", "status"))
    history = lab.get("history", "copy")
    print("history reached 36.5 degC:", any(celsius >= 36.5 for celsius in history))
