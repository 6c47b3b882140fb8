/*
 * A device on an Arduino with an Ethernet shield (W5100, W5500): the voltage at pin A0 ten times a second, and a relay at
 * pin 7. Copy ether_lite.h into this folder, fill in the lines below, upload.
 */
#include <SPI.h>
#include <Ethernet.h>

#include "ether_lite.h"

static byte hardwareAddress[] = {0x02, 0x00, 0x00, 0x00, 0x00, 0x01}; /* another one for each board */
static const IPAddress BROKER(192, 168, 1, 10);
static const uint16_t PORT = 1883;
static const char USER[] = "uno", PASSWORD[] = "secret"; /* of the broker; empty: it has no users */
static const uint8_t RELAY = 7;

enum { VOLTAGE, STATE };

static struct ether_topic topics[] = {ETHER_TOPIC("uno/voltage", 100), ETHER_TOPIC("uno/relay/is", 0)};
static const char *const hears[] = {"uno/relay"};
static const char about[] ETHER_FLASH =
    ETHER_JSON("class":"Uno","version":"1.0","outbox":"memory","clock":"ms",
               "publishes":{"uno/voltage":{"fields":{"value":{"type":"number","unit":"V","range":[0,5]}},"every":0.1},
                            "uno/relay/is":{"fields":{"value":{"type":"boolean"}}}},
               "subscribes":{"uno/relay":{"fields":{"value":{"type":"boolean"}},"methods":["relay"]}});
static struct ether device;
static EthernetClient line;

static int lineWrite(void *, const uint8_t *bytes, uint16_t size) {
    if (!line.connected()) return -1;
    return (int)line.write(bytes, size);
}

static int lineRead(void *, uint8_t *bytes, uint16_t size) {
    int waiting = line.available();
    if (waiting <= 0) return line.connected() ? 0 : -1;
    return line.read(bytes, waiting < (int)size ? (size_t)waiting : size);
}

/* Once a second; a broker that does not answer costs half a second each time. */
static bool lineOpen() {
    static unsigned long tried;
    if (millis() - tried < 1000) return false;
    line.stop();
    line.setConnectionTimeout(500);
    bool open = line.connect(BROKER, PORT) == 1;
    tried = millis();
    return open;
}

static int onHeard(struct ether *d, uint8_t, const char *value, uint16_t size) {
    int on = ether_truth(value, size);
    digitalWrite(RELAY, on ? HIGH : LOW);
    return !ether_put_bool(d, STATE, on);
}

void setup() {
    pinMode(RELAY, OUTPUT);
    Ethernet.begin(hardwareAddress);
    randomSeed((unsigned long)analogRead(A1) * 40503ul + micros());
    device.name = "uno";
    device.boot = (uint32_t)random(0x7fffffff);
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
    Ethernet.maintain();
    if (ether_due(&device, VOLTAGE)) ether_put_float(&device, VOLTAGE, (float)analogRead(A0) * 5 / 1023);
    if (ether_poll(&device) == ETHER_DOWN && lineOpen()) ether_connect(&device);
}
