"""Runs first: joins the Wi-Fi, for 20 s at most; the board goes on trying by itself, and `main` samples meanwhile."""

import time

import network

SSID = "lab"
PASSWORD = "change me"

wifi = network.WLAN(network.STA_IF)
wifi.active(True)
wifi.connect(SSID, PASSWORD)
for _ in range(200):
    if wifi.isconnected():
        break
    time.sleep(0.1)
