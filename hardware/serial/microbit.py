# A BBC micro:bit with MicroPython: it prints lines. On the other end:
#     ether serial /dev/ttyACM0 --name bench1
from microbit import display, running_time, sleep, temperature, uart

DESCRIPTION = (
    'ether {"class":"Bench","version":"1.0","publishes":{"temp":{"fields":{"value":{"unit":"degC"}},"every":1}},'
    '"subscribes":{"led":{"fields":{"value":{"type":"boolean"}}}}}'
)


def obey(line):
    if line == "ether":  # who are you?
        print(DESCRIPTION)
    elif line.startswith("led "):
        display.show("*" if line == "led true" else " ")
        print("#", line)  # a remark, for the log


uart.init(115200)
print()  # ends what may be left of an earlier line
print(DESCRIPTION)
heard, due = "", running_time()
while True:
    if running_time() >= due:
        print("temp", temperature())
        due += 1000
    heard += str(uart.read() or b"", "utf-8")
    while "\n" in heard:
        line, heard = heard.split("\n", 1)
        obey(line.strip())
    sleep(10)
