/*
 * A device on any Arduino board with Wi-Fi (ESP32, ESP8266, Pico W, MKR, UNO R4 WiFi): the voltage at pin A0 ten times a
 * second, and a lamp. Copy ether_lite.h into this folder, fill in the lines below, upload.
 */
#if defined(ESP8266)
#include <ESP8266WiFi.h>
#else
#include <WiFi.h>
#endif

#define ETHER_RING 4096 /* some hundred readings: what comes in half a minute without a connection */
#define ETHER_TX 512
#define ETHER_RX 512
#include "ether_lite.h"

static const char WIFI_NAME[] = "bench", WIFI_PASSWORD[] = "secret";
static const char BROKER[] = "192.168.1.10";
static const uint16_t PORT = 1883;
static const char USER[] = "board", PASSWORD[] = "secret"; /* of the broker; empty: it has no users */

#ifndef LED_BUILTIN
#define LED_BUILTIN 2
#endif

enum { VOLTAGE, LAMP };

static struct ether_topic topics[] = {ETHER_TOPIC("board/voltage", 100), ETHER_TOPIC("board/led/state", 0)};
static const char *const hears[] = {"board/led"};
static const char about[] ETHER_FLASH =
    ETHER_JSON("class":"Board","version":"1.0","outbox":"memory","clock":"ms",
               "publishes":{"board/voltage":{"fields":{"value":{"type":"number","unit":"V","range":[0,3.3]}},"every":0.1},
                            "board/led/state":{"fields":{"value":{"type":"boolean"}}}},
               "subscribes":{"board/led":{"fields":{"value":{"type":"boolean"}},"methods":["led"]}});
static struct ether device;
static WiFiClient line;

static int lineWrite(void *, const uint8_t *bytes, uint16_t size) {
    if (!line.connected()) return -1;
    return (int)line.write(bytes, size);
}

static int lineRead(void *, uint8_t *bytes, uint16_t size) {
    int waiting = line.available();
    if (waiting <= 0) return line.connected() ? 0 : -1;
    return line.read(bytes, waiting < size ? (size_t)waiting : size);
}

/* Once a second, if the radio is up; a broker that does not answer costs the time-out of the core's connect(). */
static bool lineOpen() {
    static unsigned long tried;
    if (WiFi.status() != WL_CONNECTED || millis() - tried < 1000) return false;
    line.stop();
    bool open = line.connect(BROKER, PORT);
#if defined(ESP32) || defined(ESP8266)
    if (open) line.setNoDelay(true);
#endif
    tried = millis();
    return open;
}

static int onHeard(struct ether *d, uint8_t, const char *value, uint16_t size) {
    int on = ether_truth(value, size);
    digitalWrite(LED_BUILTIN, on ? HIGH : LOW);
    return !ether_put_bool(d, LAMP, on);
}

void setup() {
    pinMode(LED_BUILTIN, OUTPUT);
    WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
    device.name = "board";
#if defined(ESP32)
    device.boot = esp_random();
#else
    randomSeed((unsigned long)analogRead(A0) * 40503ul + micros());
    device.boot = (uint32_t)random(0x7fffffff);
#endif
    device.user = *USER ? USER : NULL;
    device.password = *USER ? PASSWORD : NULL;
    device.about = about;
    device.topics = topics;
    device.topic_count = 2;
    device.hears = hears;
    device.hear_count = 1;
    device.write = lineWrite;
    device.read = lineRead;
    device.ms = millis;
    device.heard = onHeard;
    ether_begin(&device);
}

void loop() {
    if (ether_due(&device, VOLTAGE)) ether_put_float(&device, VOLTAGE, (float)analogRead(A0) * 3.3f / 1023);
    if (ether_poll(&device) == ETHER_DOWN && lineOpen()) ether_connect(&device);
#if defined(ESP32) || defined(ESP8266)
    if (device.restart) ESP.restart();
#endif
}
