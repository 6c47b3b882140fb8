# A board with MicroPython on USB, such as a Raspberry Pi Pico: it prints lines. On the other end:
#     ether serial /dev/ttyACM0 --name bench1
import select
import sys
import time

import machine

DESCRIPTION = (
    'ether {"class":"Bench","version":"1.0","publishes":{"temp":{"fields":{"value":{"unit":"degC"}},"every":1}},'
    '"subscribes":{"led":{"fields":{"value":{"type":"boolean"}}}}}'
)
sensor, led = machine.ADC(4), machine.Pin("LED", machine.Pin.OUT)


def temperature():
    return 27 - (sensor.read_u16() * 3.3 / 65535 - 0.706) / 0.001721


def obey(line):
    if line == "ether":  # who are you?
        print(DESCRIPTION)
    elif line.startswith("led "):
        led.value(line == "led true")
        print("#", line)  # a remark, for the log


heard = select.poll()
heard.register(sys.stdin, select.POLLIN)
print()  # ends what may be left of an earlier line
print(DESCRIPTION)
line, due = "", time.ticks_ms()
while True:
    if time.ticks_diff(time.ticks_ms(), due) >= 0:
        print("temp", temperature())
        due = time.ticks_add(due, 1000)
    while heard.poll(10):
        character = sys.stdin.read(1)
        if character != "\n":
            line += character
            continue
        obey(line.strip())
        line = ""
