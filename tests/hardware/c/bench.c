/* A device in a test's hands: commands come by lines, and what the device writes goes nowhere but into an answer.
   With the arguments `fuzz SEED CASES` it is fed damaged packets instead. C99 and C++11. */
#define ETHER_TX 224 /* the longest vector of an outgoing packet; all else as it is by default */
#include <stdio.h>
#include <stdlib.h>

#include "ether_lite.h"

static struct ether_topic topics[4];
static const char *const hears[] = {"lab/led"};
static const char about[] ETHER_FLASH = ETHER_JSON("class":"Bench","version":"1.2","outbox":"memory","publishes":{"lab/temp":{"fields":{"value":{"type":"number","unit":"degC","range":[-40,125]}},"every":1.0}},"subscribes":{"lab/led":{"fields":{"value":{"type":"boolean"}},"methods":["led"]}});
static struct ether device;
static uint8_t coming[1 << 20], gone[1 << 16];
static size_t coming_at, coming_size, gone_size;
static unsigned long clock_ms;
static int chunk, dead, fails;
static char heard[512];

static int line_write(void *link, const uint8_t *bytes, uint16_t size) {
    (void)link;
    if (dead) return -1;
    if (chunk < 0) return 0;
    if (chunk && size > chunk) size = (uint16_t)chunk;
    if (gone_size + size > sizeof gone) gone_size = 0;
    memcpy(gone + gone_size, bytes, size);
    gone_size += size;
    return size;
}

static int line_read(void *link, uint8_t *bytes, uint16_t size) {
    (void)link;
    if (dead) return -1;
    if (size > coming_size - coming_at) size = (uint16_t)(coming_size - coming_at);
    if (chunk > 0 && size > chunk) size = (uint16_t)chunk;
    memcpy(bytes, coming + coming_at, size);
    coming_at += size;
    return size;
}

static unsigned long line_ms(void) {
    return clock_ms;
}

static int on_heard(struct ether *d, uint8_t index, const char *value, uint16_t size) {
    uint16_t more = 0;
    const char *field = ether_field(d, "on", &more);
    (void)index;
    if (size > sizeof heard - 8) size = sizeof heard - 8;
    memcpy(heard, value, size);
    heard[size] = 0;
    if (field && more == 5 && !ether_truth(field, more)) fails = 1;
    return fails;
}

static void renew(void) {
    static const char *const names[] = {"lab/temp", "lab/hum", "lab/door", "lab/air"};
    int index;
    memset(&device, 0, sizeof device);
    memset(topics, 0, sizeof topics);
    for (index = 0; index < 4; index++) topics[index].name = names[index];
    topics[0].period_ms = 1000;
    device.name = "bench1";
    device.boot = 0x9f3c01aa;
    device.about = about;
    device.topics = topics;
    device.topic_count = 2;
    device.hears = hears;
    device.hear_count = 1;
    device.write = line_write;
    device.read = line_read;
    device.ms = line_ms;
    device.heard = on_heard;
    clock_ms = 0;
    chunk = dead = fails = 0;
    coming_at = coming_size = gone_size = 0;
    heard[0] = 0;
}

static void print_ring(int topic) {
    uint32_t *record;
    ETHER__EACH(&device, record) {
        if (ETHER__TOPIC(record) == topic) printf("%lu ", (unsigned long)record[2]);
    }
    printf("\n");
}

static void print_out(void) {
    size_t at;
    for (at = 0; at < gone_size; at++) printf("%02x", gone[at]);
    gone_size = 0;
    printf("\n");
}

static void take_hex(const char *text) {
    unsigned byte;
    if (coming_at == coming_size) coming_at = coming_size = 0;
    for (; sscanf(text, "%2x", &byte) == 1 && coming_size < sizeof coming; text += 2) coming[coming_size++] = (uint8_t)byte;
    printf("ok\n");
}

static int is(const char *line, const char *word) {
    return !strncmp(line, word, strlen(word)) && (line[strlen(word)] == ' ' || !line[strlen(word)]);
}

static const char *behind(const char *line, int words) {
    while (words--) {
        line += strcspn(line, " ");
        if (*line) line++;
    }
    return line;
}

/* Do what a line says to the world around the device; 0 where it says something else. */
static int do_world(const char *line) {
    static char user[32], password[32], detail[200], name[32];
    if (is(line, "new"))
        renew();
    else if (is(line, "begin"))
        return printf("%d\n", ether_begin(&device));
    else if (is(line, "name"))
        topics[1].name = strcpy(name, behind(line, 1));
    else if (is(line, "topics"))
        device.topic_count = (uint8_t)atoi(behind(line, 1));
    else if (is(line, "ms"))
        clock_ms = (uint32_t)strtoull(behind(line, 1), NULL, 10), device.now = 0,
        device.high = (uint8_t)(strtoull(behind(line, 1), NULL, 10) >> 32);
    else if (is(line, "pass"))
        clock_ms = (uint32_t)(clock_ms + strtoul(behind(line, 1), NULL, 10));
    else if (is(line, "next"))
        topics[atoi(behind(line, 1))].next = topics[atoi(behind(line, 1))].mark = (uint32_t)atol(behind(line, 2));
    else if (is(line, "id"))
        device.id = (uint16_t)atoi(behind(line, 1));
    else if (is(line, "ask"))
        device.ask_id = (uint8_t)atoi(behind(line, 1));
    else if (is(line, "chunk"))
        chunk = atoi(behind(line, 1));
    else if (is(line, "dead"))
        dead = atoi(behind(line, 1));
    else if (is(line, "fails"))
        fails = atoi(behind(line, 1));
    else if (is(line, "user") && sscanf(line, "user %31s %31s", user, password) == 2)
        device.user = user, device.password = password;
    else if (is(line, "alert"))
        ether_alert(&device, *behind(line, 1) ? strncpy(detail, behind(line, 1), sizeof detail - 1) : NULL);
    else if (is(line, "end"))
        ether_end(&device);
    else if (is(line, "connect"))
        ether_connect(&device);
    else
        return 0;
    return printf("ok\n");
}

/* Write a packet of a kind with an id (0: none), a topic and a payload. */
static void write_publish(const char *line) {
    unsigned kind = 0, id = 0;
    char topic[100], payload[300] = "";
    if (sscanf(line, "publish %x %u %99s %299s", &kind, &id, topic, payload) < 3) return;
    device.id = (uint16_t)(id - 1);
    device.text = topic;
    device.tx_size = 3;
    ether__say(&device, id ? "(*)~" : "(*)");
    ether__bytes(&device, payload, payload + strlen(payload));
    printf("%d\n", ether__close(&device, kind));
}

/* Send a block: `block KIND PERIOD_US VALUE …`, on the second topic. */
static int write_block(const char *line) {
    static union { int16_t int16[64]; uint8_t uint8[64]; float float32[64]; } samples;
    const char *at = behind(line, 3);
    uint16_t count = 0;
    int kind = atoi(behind(line, 1));
    for (; *at; at = behind(at, 1), count++) {
        if (kind == ETHER_INT16) samples.int16[count] = (int16_t)atoi(at);
        if (kind == ETHER_UINT8) samples.uint8[count] = (uint8_t)atoi(at);
        if (kind == ETHER_FLOAT32) samples.float32[count] = strtof(at, NULL);
    }
    return ether_block(&device, 1, (uint8_t)kind, &samples, count, (uint32_t)atol(behind(line, 2)), 0);
}

static void do_line(const char *line) {
    uint8_t topic = (uint8_t)atoi(behind(line, 1));
    const char *rest = behind(line, 2);
    if (do_world(line)) return;
    if (is(line, "poll"))
        printf("%d\n", ether_poll(&device));
    else if (is(line, "put"))
        printf("%d\n", ether_put(&device, topic, rest, (uint16_t)strlen(rest)));
    else if (is(line, "int"))
        printf("%d\n", ether_put_int(&device, topic, (int32_t)atol(rest)));
    else if (is(line, "bool"))
        printf("%d\n", ether_put_bool(&device, topic, atoi(rest)));
    else if (is(line, "float"))
        printf("%d\n", ether_put_float(&device, topic, strtof(rest, NULL)));
    else if (is(line, "block"))
        printf("%d\n", write_block(line));
    else if (is(line, "publish"))
        write_publish(line);
    else if (is(line, "due"))
        printf("%d\n", ether_due(&device, topic));
    else if (is(line, "in"))
        take_hex(behind(line, 1));
    else if (is(line, "out"))
        print_out();
    else if (is(line, "ring"))
        print_ring(topic);
    else if (is(line, "heard"))
        printf("%s\n", heard), heard[0] = 0;
    else if (is(line, "facts"))
        printf("{\"counts\":[%lu,%lu,%lu,%lu],\"restart\":%d,\"refused\":%d,\"recording\":%d,\"period_ms\":%lu,\"unstored\":%d}\n",
               (unsigned long)device.counts[0], (unsigned long)device.counts[1], (unsigned long)device.counts[2],
               (unsigned long)device.counts[3], device.restart, device.refused, device.recording,
               (unsigned long)topics[0].period_ms, ether_unstored(&device));
    else
        printf("? %s\n", line);
}

/* ------------------------------------------------------------------------------------------ damaged packets */

static uint32_t seed = 1;

static uint32_t random_below(uint32_t bound) {
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % bound;
}

static const char *const payloads[] = {
    "{\"boot\":\"9f3c01aa\",\"topics\":{\"lab/temp\":3,\"lab/hum\":0}}",
    "{\"boot\":\"9f3c01aa\",\"topics\":{\"lab/temp\":1},\"asked\":1,\"missing\":{\"lab/temp\":[[2,4],[6,6]]},\"seen\":{\"lab/temp\":7}}",
    "{\"id\":17}", "{\"topic\":\"lab/temp\",\"every\":0.5}", "{\"every\":4294967295.99}",
    "{\"state\":\"ready\",\"boot\":\"11223344\"}", "{\"state\":\"disconnected\"}", "{\"value\":\"\\\\\"}", "true", "",
    "{\"a\":[[[[[[[[{}]]]]]]]]}", "{\"boot\":\"9f3c01aa\",\"topics\":{\"lab/temp\":-1},\"asked\":2}",
};
static const char *const places[] = {
    "ether/stored/bench1", "ether/command/bench1/ping", "ether/command/bench1/every", "ether/status/recorder",
    "ether/status/bench1", "lab/led", "ether/command/bench1/restart", "else",
};

static size_t make_packet(uint8_t *at) {
    static const uint8_t short_ones[][5] = {{0x40, 2, 0, 1}, {0x90, 3, 0, 1, 1}, {0xd0, 0}, {0x20, 2, 0, 0}};
    const char *topic = places[random_below(8)], *payload = payloads[random_below(12)];
    size_t size = strlen(topic), more = strlen(payload), length = size + more + 4, start = length > 127 ? 3 : 2;
    if (random_below(3) == 0) {
        const uint8_t *one = short_ones[random_below(4)];
        memcpy(at, one, 5);
        if (one[0] == 0x40) at[3] = (uint8_t)device.flight_id, at[2] = (uint8_t)(device.flight_id >> 8);
        return one[1] + 2u;
    }
    at[0] = 0x32;
    at[1] = (uint8_t)(length > 127 ? length | 128 : length);
    at[2] = (uint8_t)(length >> 7);
    at += start;
    *at++ = 0, *at++ = (uint8_t)size;
    memcpy(at, topic, size), at += size;
    *at++ = 1, *at++ = 2;
    memcpy(at, payload, more);
    return start + length;
}

static void check(uint32_t number) {
    uint32_t *record = device.ring, *end = ETHER__END(&device), next[2] = {0, 0};
    int index, good = device.used <= ETHER__ROOM && device.rx_size <= ETHER_RX;
    for (; good && record < end && ETHER__SIZE(record); record = ETHER__AFTER(record)) {
        good = ETHER__TOPIC(record) < 2 && (!next[ETHER__TOPIC(record)] || record[2] == next[ETHER__TOPIC(record)]);
        if (good) next[ETHER__TOPIC(record)] = record[2] + 1;
    }
    for (index = 0; good && index < 2; index++)
        good = topics[index].mark <= topics[index].next && (!next[index] || next[index] == topics[index].next);
    if (good && record == end) return;
    printf("case %lu: the ring is broken\n", (unsigned long)number);
    exit(1);
}

static int fuzz(uint32_t cases) {
    uint32_t number, ups = 0, rejected = 0;
    renew();
    ether_begin(&device);
    for (number = 0; number < cases; number++) {
        size_t size = 0, at;
        int turn, packets = 1 + (int)random_below(4), damage = (int)random_below(4);
        while (packets--) size += make_packet(coming + size);
        while (damage--) {
            at = random_below((uint32_t)size);
            if (random_below(3)) coming[at] = (uint8_t)random_below(256);
            else size = at + 1;
        }
        coming_at = 0, coming_size = size;
        if (random_below(4) == 0) ether_put_int(&device, (uint8_t)random_below(2), (int32_t)number);
        clock_ms += random_below(400);
        chunk = (int)random_below(5);
        for (turn = 0; turn < 12; turn++) {
            int state = ether_poll(&device);
            if (state == ETHER_DOWN) {
                ether_connect(&device);
                device.state = random_below(4) ? ETHER__ON : ETHER__GREETED;
                device.subscribed = device.granted = 5;
            }
            ups += state == ETHER_UP;
        }
        check(number);
        if (random_below(1000) == 0) {
            rejected += device.counts[ETHER_REJECTED];
            clock_ms = 0, renew(), ether_begin(&device);
        }
    }
    printf("{\"cases\":%lu,\"up\":%lu,\"rejected\":%lu}\n", (unsigned long)number, (unsigned long)ups, (unsigned long)rejected);
    return 0;
}

int main(int count, char **words) {
    static char line[1 << 16];
    if (count == 4) {
        seed = (uint32_t)atol(words[2]);
        return fuzz((uint32_t)atol(words[3]));
    }
    renew();
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        do_line(line);
        fflush(stdout);
    }
    return 0;
}
