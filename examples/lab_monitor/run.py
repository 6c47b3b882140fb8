"""Heat a bath until the controller has switched the heater off and on again."""

import queue
from pathlib import Path

from ether import Reading, ether

switches: queue.Queue[Reading] = queue.Queue()

with ether.session(Path(__file__).with_name("session.yaml")) as lab:
    lab.subscribe("Sensor.set_heater", switches.put)
    with lab.run("heating", liquid="water") as run:
        lab.start()
        off = switches.get(timeout=20)
        run.annotate("limit reached", tags=["safety"])
        on = switches.get(timeout=20)
    print("heater off, then on:", [off.fields["on"], on.fields["on"]])
    print("highest temperature:", lab.get("logger", "highest"), "degC")
