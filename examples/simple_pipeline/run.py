"""Run the pipeline as four processes, then the same classes by hand."""

import queue
from pathlib import Path

from pipeline import Collector, Generator, Processor

from ether import Reading, ether

summaries: queue.Queue[Reading] = queue.Queue()

ether.tap(Path(__file__).with_name("session.yaml"))
ether.subscribe("summary", summaries.put)
ether.start()
print("through ether:", summaries.get(timeout=20).fields)
session = ether.shutdown()
print("recorded in:", session.recording)

# The session is over, and the classes are what they always were.
collector = Collector(expected=20)
for message in Generator(count=10).generate():
    for processor in (Processor(2), Processor(3)):
        collector.collect(**processor.multiply(**message))
print("by hand:", collector.summarise())
