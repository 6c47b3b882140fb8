/*
 * A device on Linux, macOS or BSD: two sawtooths to lab/temp and lab/hum, a lamp on lab/led.
 *
 *     cc -std=c99 -O2 -I../.. bench.c -o bench && ./bench 127.0.0.1 1883 bench1 100
 *
 * A user and its password may follow. Ctrl-C says goodbye: what the recorder lacks is sent first, for 10 s at most.
 */
#define _POSIX_C_SOURCE 200112L
#ifndef ETHER_RING
#define ETHER_RING 16384 /* some thousand readings; memory is no matter here */
#endif
#ifndef ETHER_TX
#define ETHER_TX 1024
#endif
#ifndef ETHER_RX
#define ETHER_RX 1024
#endif
#ifndef FIRST_MS
#define FIRST_MS 0 /* what the clock shows at the start */
#endif
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ether_lite.h"

enum { TEMP, HUM, LAMP };

static struct ether_topic topics[] = {
    ETHER_TOPIC("lab/temp", 100), ETHER_TOPIC("lab/hum", 1000), ETHER_TOPIC("lab/led/state", 0)};
static const char *const hears[] = {"lab/led"};
static const char about[] ETHER_FLASH = ETHER_JSON("class":"Bench","version":"1.0","outbox":"memory","clock":"ms","publishes":{
    "lab/temp":{"fields":{"value":{"type":"number","unit":"degC","range":[20,30]}},"every":0.1},
    "lab/hum":{"fields":{"value":{"type":"number","unit":"%"}},"every":1},
    "lab/led/state":{"fields":{"value":{"type":"boolean"}}}},
    "subscribes":{"lab/led":{"fields":{"value":{"type":"boolean"}},"methods":["led"]}});

static struct ether device;
static int line = -1;
static volatile sig_atomic_t stopping;

static int line_write(void *link, const uint8_t *bytes, uint16_t size) {
    ssize_t taken = send(*(int *)link, bytes, size, 0);
    return taken >= 0 ? (int)taken : errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
}

static int line_read(void *link, uint8_t *bytes, uint16_t size) {
    ssize_t got = recv(*(int *)link, bytes, size, 0);
    return got > 0 ? (int)got : got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : -1;
}

static unsigned long line_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned long)now.tv_sec * 1000 + (unsigned long)now.tv_nsec / 1000000;
}

static unsigned long since_start(void) {
    static unsigned long start;
    if (!start) start = line_ms();
    return line_ms() - start + FIRST_MS;
}

/* Open the line; takes a second at most, of which nothing is missed: ether_due() counts what is. */
static int line_open(const char *host, const char *port) {
    struct addrinfo wanted, *found;
    struct pollfd ready = {-1, POLLOUT, 0};
    int yes = 1, error = 0;
    socklen_t size = sizeof error;
    if (line >= 0) close(line);
    line = -1;
    memset(&wanted, 0, sizeof wanted);
    wanted.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host, port, &wanted, &found)) return 0;
    ready.fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (ready.fd >= 0) {
        fcntl(ready.fd, F_SETFL, O_NONBLOCK);
        setsockopt(ready.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (connect(ready.fd, found->ai_addr, found->ai_addrlen) && errno != EINPROGRESS) error = errno;
        if (!error && poll(&ready, 1, 1000) == 1) getsockopt(ready.fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (!error && (ready.revents & (POLLERR | POLLHUP | POLLOUT)) == POLLOUT) line = ready.fd;
        else close(ready.fd);
    }
    freeaddrinfo(found);
    return line >= 0;
}

static int on_heard(struct ether *d, uint8_t index, const char *value, uint16_t size) {
    (void)index;
    return !ether_put_bool(d, LAMP, ether_truth(value, size));
}

static void on_signal(int number) {
    (void)number;
    stopping = 1;
}

/* Sleep until something comes, 5 ms at most. */
static void rest(int up) {
    struct pollfd ready = {up ? line : -1, POLLIN, 0};
    poll(&ready, 1, 5);
}

static void set_up(char **words) {
    FILE *random = fopen("/dev/urandom", "rb");
    if (!random || fread(&device.boot, sizeof device.boot, 1, random) != 1) device.boot = (uint32_t)time(NULL);
    if (random) fclose(random);
    device.name = words[3];
    device.about = about;
    device.topics = topics;
    device.topic_count = 3;
    device.hears = hears;
    device.hear_count = 1;
    device.write = line_write;
    device.read = line_read;
    device.ms = since_start;
    device.heard = on_heard;
    device.link = &line;
    device.keepalive_s = 10;
    device.every_s = 2;
}

int main(int count, char **words) {
    unsigned long opened = 0, ending = 0;
    int leaving = 0;
    long number = 0;
    if (count < 4) return fprintf(stderr, "bench HOST PORT NAME [PERIOD_MS [USER PASSWORD]]\n"), 2;
    if (count > 4) topics[TEMP].period_ms = (uint32_t)atol(words[4]);
    if (count > 6) {
        device.user = words[5];
        device.password = words[6];
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    set_up(words);
    if (!ether_begin(&device)) return fprintf(stderr, "bench: %s is too long for ETHER_TX or ETHER_RX\n", words[3]), 2;
    for (;;) {
        int state = ether_poll(&device), late = ending && line_ms() - ending > 10000;
        if (state == ETHER_DOWN) {
            if (leaving || late) break;
            if (device.refused) return fprintf(stderr, "bench: the broker refuses us, with code %d\n", device.refused), 1;
            if (!opened || line_ms() - opened > 250) {
                if (line_open(words[1], words[2])) ether_connect(&device);
                opened = line_ms();
            }
        }
        if (!ending && (stopping || device.restart)) ending = line_ms();
        if (!ending && ether_due(&device, TEMP)) ether_put_float(&device, TEMP, 20 + (float)(number++ % 100) / 10);
        if (!ending && ether_due(&device, HUM)) ether_put_int(&device, HUM, (int32_t)(number % 50));
        if (ending && state == ETHER_UP && !leaving && (late || !ether_unstored(&device))) {
            ether_end(&device);
            leaving = 1;
        }
        rest(state != ETHER_DOWN);
    }
    printf("%lu %lu %lu taken, %lu dropped, %d left\n", (unsigned long)topics[TEMP].next, (unsigned long)topics[HUM].next,
           (unsigned long)topics[LAMP].next, (unsigned long)device.counts[ETHER_DROPPED], ether_unstored(&device));
    return device.restart ? 3 : 0;
}
