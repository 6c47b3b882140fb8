"""MicroPython's `machine`, as far as our example for a board on USB needs it."""


class ADC:
    def __init__(self, _channel):
        pass

    def read_u16(self):
        return 14000


class Pin:
    OUT = 1

    def __init__(self, _name, _mode):
        pass

    def value(self, on):
        print("# LED", "on" if on else "off")
