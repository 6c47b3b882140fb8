/*
 * ether_lite.h: a device as a member of an ether system, in one header, for C99 and C++11.
 *
 * It numbers readings, keeps them in a ring until they are recorded, sends them again where they were lost, and takes
 * commands. The wire is ../PROTOCOL.md, level 3. No malloc, no printf, no threads, no clock. Nothing in here waits: only
 * your three callbacks touch the world. All functions of one device belong to one thread.
 *
 *     static struct ether_topic topics[] = {ETHER_TOPIC("lab/temp", 1000)};
 *     static const char about[] ETHER_FLASH = ETHER_JSON("class":"Bench","outbox":"memory","publishes":{"lab/temp":{}});
 *     static struct ether device;
 *
 *     void setup(void) {
 *         device.name = "bench1";       device.boot = random_number();   device.about = about;
 *         device.topics = topics;       device.topic_count = 1;
 *         device.write = line_write;    device.read = line_read;         device.ms = millis;
 *         ether_begin(&device);
 *     }
 *     void loop(void) {
 *         if (ether_due(&device, 0)) ether_put_float(&device, 0, read_sensor());
 *         if (ether_poll(&device) == ETHER_DOWN && line_open()) ether_connect(&device);
 *     }
 */
#ifndef ETHER_LITE_H
#define ETHER_LITE_H

#include <stdint.h>
#include <string.h>

#ifndef ETHER_RX
#define ETHER_RX 160 /* bytes of the longest message that can be received, topic included */
#endif
#ifndef ETHER_TX
#define ETHER_TX 160 /* bytes of the longest message that can be sent; what is longer in the ring goes in several */
#endif
#ifndef ETHER_RING
#define ETHER_RING 164 /* bytes for readings that are not recorded yet; each takes 12 and its text, rounded up to 4 */
#endif
#ifndef ETHER_FIRST_ID
#define ETHER_FIRST_ID 0 /* the packet id before the first one; another only to test the wrap */
#endif

#if ETHER_TX < 128 || ETHER_TX > 16000 || ETHER_RX < 64 || ETHER_RX > 16000 || ETHER_RING < 64 || ETHER_RING > 60000
#error "ETHER_TX is 128 to 16000, ETHER_RX 64 to 16000, ETHER_RING 64 to 60000 bytes"
#endif

#ifdef __AVR__ /* text that is in flash only: RAM is scarce */
#include <avr/pgmspace.h>
#define ETHER_FLASH PROGMEM
#define ETHER__TEXT(text) PSTR(text)
#define ETHER__BYTE(place) ((char)pgm_read_byte(place))
#else
#define ETHER_FLASH
#define ETHER__TEXT(text) (text)
#define ETHER__BYTE(place) (*(place))
#endif

/* JSON as it is, without escaped quotes: ETHER_JSON("class":"Bench","version":"1.2") is one string literal. */
#define ETHER_JSON(...) #__VA_ARGS__

/* A topic to publish on, sampled every `period` ms; 0: ether_due() never tells you to. Topics are plain ASCII. */
#define ETHER_TOPIC(name, period) {name, period, 0, 0, 0, 0, 0, 0}

/* What ether_poll() returns. */
enum { ETHER_DOWN = -1, ETHER_CONNECTING = 0, ETHER_UP = 1 };

/* Kinds of samples in a block: the tags of RFC 8746, little-endian. */
enum { ETHER_UINT8 = 64, ETHER_UINT16 = 69, ETHER_UINT32 = 70, ETHER_INT8 = 72, ETHER_INT16 = 77, ETHER_INT32 = 78,
       ETHER_FLOAT32 = 85 };

/* Indices of `counts`. */
enum { ETHER_DROPPED, ETHER_FAILED, ETHER_MISSED, ETHER_REJECTED };

struct ether_topic {
    const char *name;
    uint32_t period_ms; /* changed by the command `every` */
    uint32_t due;       /* private from here on: when the next sample is */
    uint32_t next;      /* number of the next reading */
    uint32_t mark;      /* lowest number that is neither known to be stored nor given up */
    uint32_t asked;     /* lowest number in the ring as the recorder was asked */
    uint16_t news;      /* when the recorder last said something of it */
    uint8_t silent;     /* answers in a row that did not mention it */
};

struct ether {
    /* Private: what is used most stands first, where small processors reach it with short instructions. */
    uint8_t state, todo, high, flight, lively, subscribed, granted, asking, ask_wait;
    uint8_t rx_kind, rx_shift, rx_body, rx_cut;

    /* To be read. */
    uint8_t recording; /* somebody records */
    uint8_t restart;   /* a restart was commanded: do it when it suits */
    uint8_t refused;   /* why the broker last refused the connection: return code of its CONNACK */

    /* To be set before ether_begin(); what is left out is 0. */
    uint8_t topic_count;
    uint8_t hear_count;
    uint16_t keepalive_s; /* 0 is 30, at most 16000; a dead link is noticed within it */
    uint16_t every_s;     /* 0 is 10, at most 16000: how often the status is repeated */

    uint16_t rx_size, tx_size, tx_at, place, room, used, id, flight_id, ack_id, ask_id; /* private */
    uint16_t tick, since, sent, received, said, ask_at;                    /* private; in units of 256 ms */
    uint32_t now, rx_left;                                                 /* private */
    const char *end, *behind, *detail, *tail, *payload;                    /* private */

    const char *name;           /* letters, digits, `_`, `-`, `.`; unique in the system */
    struct ether_topic *topics; /* what it publishes; `topic` in the functions below is the index */
    const char *const *hears;   /* topics that it subscribes to */
    const char *about;          /* members of the self-description, in ETHER_FLASH; or NULL */
    const char *user;           /* or NULL */
    const char *password;       /* or NULL */
    /* Sends what it can at once; returns the number of bytes taken (0: none now), or -1 where the link is dead. */
    int (*write)(void *link, const uint8_t *bytes, uint16_t size);
    /* Fetches what has come, `size` bytes at most; returns the number of bytes (0: none now), or -1. */
    int (*read)(void *link, uint8_t *bytes, uint16_t size);
    /* Milliseconds that may wrap at 2^32, such as Arduino's millis(). */
    unsigned long (*ms)(void);
    /* A message came on hears[index]; `value` is JSON (a text has quotes) or whatever was sent, without a final 0. Of an
       object it is the first field; ether_field() has the others. 0 says that all went well; else it is counted. */
    int (*heard)(struct ether *device, uint8_t index, const char *value, uint16_t size);
    void *link;    /* yours: handed to write and read */
    uint32_t boot; /* another number at each start: random, or a counter kept in flash */

    uint32_t counts[4]; /* to be read: since boot, by ETHER_DROPPED … */

    char boot_text[9]; /* private */
    uint8_t tx[ETHER_TX], rx[ETHER_RX];
    uint32_t ring[ETHER_RING / 4];
};

/* ------------------------------------------------------------------------------------------ private: small things */

enum { ETHER__OFF, ETHER__GREETED, ETHER__WELCOME, ETHER__ON, ETHER__LEAVING }; /* state */
enum { ETHER__INIT = 1, ETHER__READY = 2, ETHER__ABOUT = 4, ETHER__GOODBYE = 8, ETHER__ACK = 16, ETHER__PINGED = 32,
       ETHER__BORN = 64 }; /* todo, and what has been done */
enum { ETHER__FLIGHT = 1, ETHER__ACKED = 2, ETHER__AGAIN = 4 }; /* of a record */

/* A record: one word of size of text, topic, flags and bits 32 to 39 of ms; ms; number; text. */
#define ETHER__SIZE(record) ((uint8_t *)(record))[0]
#define ETHER__TOPIC(record) ((uint8_t *)(record))[1]
#define ETHER__FLAGS(record) ((uint8_t *)(record))[2]
#define ETHER__HIGH(record) ((uint8_t *)(record))[3]
#define ETHER__WORDS(size) (3u + ((size) + 3u) / 4u)
#define ETHER__AFTER(record) ((record) + ETHER__WORDS(ETHER__SIZE(record)))
#define ETHER__EACH(device, record) \
    for (record = (device)->ring; record < (device)->ring + (device)->used; record = ETHER__AFTER(record))

static inline void ether__now(struct ether *d) {
    uint32_t now = (uint32_t)d->ms();
    if (now < d->now) d->high++;
    d->now = now;
    d->tick = (uint16_t)(now >> 8);
}

/* Return whether so many ticks have passed. */
static inline int ether__past(const struct ether *d, unsigned since, unsigned ticks) {
    return (uint16_t)(d->tick - since) >= ticks;
}

/* ------------------------------------------------------------------------------------------ private: writing */

static inline void ether__byte(struct ether *d, unsigned byte) {
    if (d->tx_size < ETHER_TX) d->tx[d->tx_size] = (uint8_t)byte;
    d->tx_size++; /* more than ETHER_TX tells that it was too long */
}

static inline void ether__bytes(struct ether *d, const char *at, const char *end) {
    while (at < end) ether__byte(d, (uint8_t)*at++);
}

/* Write a number of 40 bits in decimal; with 32-bit divisions only, as others are large on small processors. */
static inline void ether__decimal(struct ether *d, unsigned high, uint32_t low) {
    char digits[13], *at = digits + sizeof digits;
    do {
        uint32_t part = ((uint32_t)(high % 10) << 16) | (low >> 16);
        uint32_t rest = ((part % 10) << 16) | (low & 0xffff);
        high /= 10;
        low = ((part / 10) << 16) | (rest / 10);
        *--at = (char)('0' + rest % 10);
    } while (low || high);
    ether__bytes(d, at, digits + sizeof digits);
}

/* Write a text of flash in which ' is a quote, $ the name, # the boot, * the given text, % the given number, = the number
   in two bytes, ~ a new packet id, and what is in parentheses goes behind its length. */
static inline void ether__say(struct ether *d, const char *form, const char *text, uint32_t number) {
    char c;
    while ((c = ETHER__BYTE(form++))) {
        const char *put = NULL;
        if (c == '$') put = d->name;
        if (c == '#') put = d->boot_text;
        if (c == '*') put = text;
        if (put) {
            ether__bytes(d, put, put + strlen(put));
        } else if (c == '(') {
            d->place = d->tx_size += 2;
        } else if (c == ')') {
            unsigned size = d->tx_size - d->place;
            if (d->tx_size > ETHER_TX) continue;
            d->tx[d->place - 2] = (uint8_t)(size >> 8);
            d->tx[d->place - 1] = (uint8_t)size;
        } else if (c == '%') {
            ether__decimal(d, 0, number);
        } else if (c == '~' || c == '=') {
            unsigned pair = (unsigned)number;
            if (c == '~') {
                if (!++d->id) d->id = 1;
                pair = d->id;
            }
            ether__byte(d, pair >> 8);
            ether__byte(d, pair);
        } else {
            ether__byte(d, (uint8_t)(c == '\'' ? '"' : c));
        }
    }
}
#define ETHER__SAY(form) ether__say(d, ETHER__TEXT(form), NULL, 0)

/* End the packet that was written, of which `more` bytes follow by themselves; 0 where it was too long: it is not sent. */
static inline int ether__close(struct ether *d, unsigned kind, unsigned more) {
    unsigned size = d->tx_size - 3 + more;
    if (d->tx_size > ETHER_TX) {
        d->tx_size = 0;
        return 0;
    }
    d->tx_at = size < 128;
    d->tx[2] = (uint8_t)size;
    if (size >= 128) {
        d->tx[1] = (uint8_t)(size | 128);
        d->tx[2] = (uint8_t)(size >> 7);
    }
    d->tx[d->tx_at] = (uint8_t)kind;
    d->sent = d->tick;
    return 1;
}

/* Begin a packet with what is said. */
static inline void ether__open(struct ether *d, const char *form, const char *text) {
    d->tx_size = 3; /* the fixed header comes last, when the length is known */
    ether__say(d, form, text, 0);
}
#define ETHER__OPEN(form) ether__open(d, ETHER__TEXT(form), NULL)

/* Write what is ready; 1 where nothing is left of it. */
static inline int ether__drain(struct ether *d) {
    for (;;) {
        while (d->tx_at < d->tx_size) {
            int taken = d->write(d->link, d->tx + d->tx_at, (uint16_t)(d->tx_size - d->tx_at));
            if (taken < 0) d->state = ETHER__OFF;
            if (taken <= 0) return 0;
            d->tx_at = (uint16_t)(d->tx_at + taken);
        }
        d->tx_at = d->tx_size = 0;
        if (!d->tail) return 1;
        while (d->tail && d->tx_size < ETHER_TX) { /* the self-description, which is longer than any buffer */
            char c = ETHER__BYTE(d->tail++);
            if (!c) {
                d->tail = NULL;
                c = '}';
            }
            ether__byte(d, (uint8_t)c);
        }
    }
}

/* ------------------------------------------------------------------------------------------ private: the ring */

/* Return the lowest number of a topic that is in the ring; the next one where none is. */
static inline uint32_t ether__oldest(struct ether *d, unsigned topic) {
    uint32_t *record;
    ETHER__EACH(d, record) {
        if (ETHER__TOPIC(record) == topic) return record[2];
    }
    return d->topics[topic].next;
}

static inline int ether__recorded(const struct ether *d, unsigned topic) {
    return d->recording && d->topics[topic].silent < 3;
}

/* Free what is below its topic's mark, or was taken by the broker and is recorded by nobody. */
static inline void ether__sweep(struct ether *d) {
    uint32_t *from = d->ring, *to = d->ring, *end = d->ring + d->used;
    while (from < end) {
        unsigned words = ETHER__WORDS(ETHER__SIZE(from));
        uint32_t *mark = &d->topics[ETHER__TOPIC(from)].mark;
        if ((ETHER__FLAGS(from) & ETHER__ACKED) && !ether__recorded(d, ETHER__TOPIC(from))) *mark = from[2] + 1;
        if (from[2] >= *mark) {
            memmove(to, from, words * 4);
            to += words;
        }
        from += words;
    }
    d->used = (uint16_t)(to - d->ring);
}

/* Drop the oldest reading. Where somebody records, it may be stored: the recorder will be asked. */
static inline void ether__drop(struct ether *d) {
    unsigned topic = ETHER__TOPIC(d->ring), words = ETHER__WORDS(ETHER__SIZE(d->ring));
    if (!ether__recorded(d, topic)) {
        d->counts[ETHER_DROPPED]++;
        d->topics[topic].mark = d->ring[2] + 1;
    }
    d->used = (uint16_t)(d->used - words);
    memmove(d->ring, d->ring + words, d->used * 4u);
}

/* Give up what the ring does not hold of a topic below a number; so much of it is lost. */
static inline void ether__give_up(struct ether *d, unsigned topic, uint32_t lost, uint32_t mark) {
    d->counts[ETHER_DROPPED] += lost;
    d->topics[topic].mark = mark;
    d->todo |= ETHER__READY;
}

/* ------------------------------------------------------------------------------------------ private: what is sent */

/* Write a number for each topic: its mark, or its last one. */
static inline void ether__numbers(struct ether *d, int marks) {
    unsigned topic;
    uint8_t comma = 0;
    for (topic = 0; topic < d->topic_count; topic++) {
        const struct ether_topic *t = &d->topics[topic];
        uint32_t number = marks ? t->mark : t->next - 1;
        if (number == (marks ? t->next : 0xffffffff)) continue; /* nothing to tell */
        if (comma) ether__byte(d, ',');
        ether__say(d, ETHER__TEXT("'*':%"), t->name, number);
        comma = 1;
    }
    ETHER__SAY("}}");
}

static inline void ether__status(struct ether *d, const char *state, int brief) {
    static const char names[] ETHER_FLASH = "'dropped':%\0'failed':%\0'missed':%\0'rejected':%";
    ETHER__OPEN("(ether/status/$)~{'state':'");
    ether__say(d, state, NULL, 0);
    ETHER__SAY("','boot':'#'");
    if (!brief && d->detail) ether__say(d, ETHER__TEXT(",'detail':'*'"), d->detail, 0);
    ether__say(d, ETHER__TEXT(",'every':%"), NULL, d->every_s);
    if (!brief) {
        const char *name = names;
        uint8_t index, some = 0;
        for (index = 0; index < 4; index++) {
            if (d->counts[index]) {
                ether__say(d, some ? ETHER__TEXT(",") : ETHER__TEXT(",'counts':{"), NULL, 0);
                ether__say(d, name, NULL, d->counts[index]);
                some = 1;
            }
            while (ETHER__BYTE(name++)) {}
        }
        if (some) ether__byte(d, '}');
    }
    if (d->todo & ETHER__GOODBYE) {
        ETHER__SAY(",'last':{");
        ether__numbers(d, 0);
    } else {
        ether__byte(d, '}');
    }
    if (!ether__close(d, 0x33, 0) && !brief) ether__status(d, state, 1);
}

static inline void ether__about(struct ether *d) {
    const char *end = d->about;
    while (ETHER__BYTE(end)) end++;
    ETHER__OPEN("(ether/about/$)~{'ether':1,'boot':'#',");
    if (ether__close(d, 0x33, (unsigned)(end - d->about) + 1)) d->tail = d->about;
}

/* Topics of ours: to subscribe to, and the commands. */
static const char ether__topics[] ETHER_FLASH =
    "ether/status/recorder\0ether/stored/$\0ether/status/$\0ether/command/$/+\0*\0"
    "ether/command/$/ping\0ether/command/$/every\0ether/command/$/restart";
enum { ETHER__RECORDER, ETHER__STORED, ETHER__STATUS, ETHER__COMMAND, ETHER__OTHER, ETHER__PING, ETHER__EVERY,
       ETHER__RESTART, ETHER__NONE };

/* Return the form of a topic. */
static inline const char *ether__form(unsigned which) {
    const char *form = ether__topics;
    while (which--)
        while (ETHER__BYTE(form++)) {}
    return form;
}

static inline void ether__subscribe(struct ether *d) {
    unsigned index = d->subscribed++, which = index;
    const char *topic = NULL;
    if (index >= ETHER__OTHER) {
        which = ETHER__OTHER;
        topic = d->hears[index - ETHER__OTHER];
    }
    ETHER__OPEN("~(");
    ether__say(d, ether__form(which), topic, 0);
    ETHER__SAY(")\1");
    ether__close(d, 0x82, 0);
}

/* Go through `count` readings of one topic with successive numbers: write their values (0) or times (1), or mark them as
   sent (2). */
static inline void ether__series(struct ether *d, uint32_t *record, unsigned count, unsigned what) {
    unsigned topic = ETHER__TOPIC(record);
    for (; count; record = ETHER__AFTER(record)) {
        if (ETHER__TOPIC(record) != topic) continue;
        count--;
        if (what == 0) ether__bytes(d, (char *)(record + 3), (char *)(record + 3) + ETHER__SIZE(record));
        if (what == 1) ether__decimal(d, ETHER__HIGH(record), record[1]);
        if (what == 2)
            ETHER__FLAGS(record) |= ETHER__FLIGHT;
        else if (count)
            ether__byte(d, ',');
    }
}

/* Write a message of so many readings; returns 0, or the size it would have where that is too long. */
static inline unsigned ether__batch(struct ether *d, uint32_t *first, unsigned count) {
    const char *text = (const char *)(first + 3);
    unsigned size;
    ether__open(d, ETHER__FLAGS(first) & ETHER__AGAIN ? ETHER__TEXT("(ether/resend/*)~{") : ETHER__TEXT("(*)~{"),
                d->topics[ETHER__TOPIC(first)].name);
    if (*text == '{') { /* an object is its own fields */
        ether__bytes(d, text + 1, text + ETHER__SIZE(first) - 1);
    } else {
        ether__say(d, count > 1 ? ETHER__TEXT("'value':[") : ETHER__TEXT("'value':"), NULL, 0);
        ether__series(d, first, count, 0);
        if (count > 1) ether__byte(d, ']');
    }
    ether__say(d, ETHER__TEXT(",'_ether':{'by':'$','b':'#','n':%,'ms':"), NULL, first[2]);
    if (count > 1) ether__byte(d, '[');
    ether__series(d, first, count, 1);
    if (count > 1) ether__say(d, ETHER__TEXT("],'k':%"), NULL, count);
    ETHER__SAY("}}");
    size = d->tx_size;
    return ether__close(d, 0x32, 0) ? 0 : size;
}

/* Send the oldest readings that wait for it, as many as a message holds. */
static inline int ether__send(struct ether *d) {
    uint32_t *record, *first = NULL;
    unsigned count = 0, size;
    ETHER__EACH(d, record) {
        uint8_t flags = ETHER__FLAGS(record);
        if (!first) {
            if (flags & (ETHER__FLIGHT | ETHER__ACKED)) continue;
            first = record;
        } else {
            if (ETHER__TOPIC(record) != ETHER__TOPIC(first)) continue;
            if (flags != ETHER__FLAGS(first) || *(char *)(record + 3) == '{' || *(char *)(first + 3) == '{') break;
        }
        count++;
    }
    if (!first) return 0;
    while ((size = ether__batch(d, first, count))) {
        unsigned fit = (unsigned)((uint32_t)count * ETHER_TX / size);
        count = fit && fit < count ? fit : count - 1;
    }
    ether__series(d, first, count, 2);
    d->flight = 1;
    d->flight_id = d->id;
    d->since = d->tick;
    return 1;
}

/* Ask the recorder what it has, if there is a doubt. */
static inline int ether__ask(struct ether *d) {
    unsigned topic;
    uint8_t doubt = d->used && (ETHER__FLAGS(d->ring) & ETHER__ACKED) &&
                    ether__past(d, d->topics[ETHER__TOPIC(d->ring)].news, 4);
    if (!d->recording || !ether__past(d, d->ask_at, d->ask_wait)) return 0;
    for (topic = 0; topic < d->topic_count; topic++) {
        struct ether_topic *t = &d->topics[topic];
        t->asked = ether__oldest(d, topic);
        if (t->mark < t->asked && t->silent < 3) doubt = 1;
    }
    d->asking = doubt;
    if (!doubt) return 0;
    d->ask_at = d->tick;
    d->ask_wait = (uint8_t)(d->ask_wait < 4 ? 4 : d->ask_wait < 64 ? d->ask_wait * 2 : 120);
    d->tx_size = 3;
    ether__say(d, ETHER__TEXT("(ether/command/recorder/confirm)~{'by':'$','boot':'#','id':%,'from':{"), NULL, ++d->ask_id);
    ether__numbers(d, 1);
    return ether__close(d, 0x32, 0);
}

/* Make the next packet that is due; 0 where none is. */
static inline int ether__speak(struct ether *d) {
    unsigned todo = d->todo, half = d->keepalive_s * 2u;
    if (todo & ETHER__ACK) {
        d->todo &= (uint8_t)~ETHER__ACK;
        d->tx_size = 3;
        ether__say(d, ETHER__TEXT("="), NULL, d->ack_id);
        return ether__close(d, 0x40, 0);
    }
    if (d->state < ETHER__WELCOME) return 0;
    if (d->state == ETHER__LEAVING) {
        if (!(todo & ETHER__GOODBYE)) return 0;
        d->todo ^= ETHER__GOODBYE;
        d->tx_size = 3;
        return ether__close(d, 0xe0, 0);
    }
    if (todo & ETHER__INIT) {
        d->todo ^= ETHER__INIT;
        ether__status(d, ETHER__TEXT("init"), 1);
    } else if ((todo & ETHER__READY) || ether__past(d, d->said, d->every_s * 4u)) {
        d->todo &= (uint8_t)~ETHER__READY;
        d->said = d->tick;
        ether__status(d, d->detail ? ETHER__TEXT("alert") : ETHER__TEXT("ready"), 0);
    } else if (todo & ETHER__ABOUT) {
        d->todo ^= ETHER__ABOUT;
        if (d->about) ether__about(d);
    } else if (d->subscribed < d->hear_count + 4) {
        ether__subscribe(d);
    } else if (todo & ETHER__GOODBYE) {
        d->state = ETHER__LEAVING;
        ether__status(d, ETHER__TEXT("disconnected"), 0);
    } else if (!(todo & ETHER__PINGED) && (ether__past(d, d->sent, half) || ether__past(d, d->received, half))) {
        d->todo |= ETHER__PINGED;
        d->tx_size = 3;
        ether__close(d, 0xc0, 0);
    } else {
        return d->state == ETHER__ON && (ether__ask(d) || (!d->flight && ether__send(d)));
    }
    return 1;
}

/* ------------------------------------------------------------------------------------------ private: JSON, as it came */

/* Return the place behind what matches a form (' $ # * as in ether__say); NULL where it does not. */
static inline const char *ether__match(const struct ether *d, const char *at, const char *form, const char *text) {
    char c;
    while (at && (c = ETHER__BYTE(form++))) {
        const char *put = &c;
        unsigned size = 1;
        if (c == '\'') c = '"';
        if (c == '$') put = d->name;
        if (c == '#') put = d->boot_text;
        if (c == '*') put = text;
        if (put != &c) size = (unsigned)strlen(put);
        at = (unsigned)(d->end - at) >= size && !memcmp(at, put, size) ? at + size : NULL;
    }
    return at;
}
#define ETHER__MATCH(at, form) ether__match(d, at, ETHER__TEXT(form), NULL)

/* Return what follows blanks, commas and colons. */
static inline const char *ether__gap(const struct ether *d, const char *at) {
    while (at < d->end && ((uint8_t)*at <= ' ' || *at == ',' || *at == ':')) at++;
    return at;
}

/* Return the place behind a JSON value; NULL where it has no end. */
static inline const char *ether__behind(const struct ether *d, const char *at) {
    int depth = 0, quoted = 0;
    while (at < d->end) {
        char c = *at++;
        if (quoted) {
            if (c == '\\') at++;
            if (c == '"') quoted = 0;
        } else if (c == '"') {
            quoted = 1;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (!depth) {
            while (at < d->end && (uint8_t)*at > ' ' && *at != ',' && *at != '}' && *at != ']') at++;
        }
        if (!quoted && depth <= 0) return depth || at > d->end ? NULL : at;
    }
    return NULL;
}

/* Return the member of a JSON object whose name matches, and note the place behind it; for no form the first one that is
   not ether's own. NULL where there is none. */
static inline const char *ether__member(struct ether *d, const char *at, const char *form, const char *text) {
    if (!at || at >= d->end || *at != '{') return NULL;
    for (at++;;) {
        const char *key = ether__gap(d, at);
        if (key >= d->end || *key != '"' || !(at = ether__behind(d, key))) return NULL;
        at = ether__gap(d, at);
        if (!(d->behind = ether__behind(d, at))) return NULL;
        if (form ? ether__match(d, key, form, text) != NULL : key[1] != '_') return at;
        at = d->behind;
    }
}
#define ETHER__MEMBER(at, form) ether__member(d, at, ETHER__TEXT(form), NULL)

/* Read the digits at a place; return the place behind them, NULL where there are none, or more than 32 bits hold. */
static inline const char *ether__digits(const struct ether *d, const char *at, uint32_t *number) {
    const char *begin = at;
    uint32_t value = 0;
    while (at && at < d->end && (uint8_t)(*at - '0') < 10) {
        if (value > 429496728) return NULL;
        value = value * 10 + (uint8_t)(*at++ - '0');
    }
    *number = value;
    return at > begin ? at : NULL;
}

/* ------------------------------------------------------------------------------------------ private: what is heard */

/* What a message on ether/stored/<name> says. */
struct ether__news {
    const char *topics, *first, *missing, *seen;
    int answer;
};

/* Return how many of these numbers are among those from the mark on that the ring no longer had when it asked. */
static inline uint32_t ether__gone(const struct ether_topic *t, uint32_t first, uint32_t last) {
    if (first < t->mark) first = t->mark;
    if (last >= t->asked) last = t->asked - 1;
    return first <= last ? last - first + 1 : 0;
}

/* Return how many of those were not stored: what is at or behind `behind`, unless the recorder has seen it, and what it
   lists as missing. */
static inline uint32_t ether__lost(struct ether *d, const struct ether__news *news, const struct ether_topic *t,
                                   uint32_t behind) {
    uint32_t number, first = 0, lost;
    const char *at;
    uint8_t odd = 0;
    if (d->rx_cut) return t->asked - t->mark; /* too long to be read to its end */
    at = ether__member(d, news->seen, ETHER__TEXT("'*'"), t->name);
    if (ether__digits(d, at, &number) && number >= behind) behind = number + 1;
    lost = ether__gone(t, behind, 0xffffffff);
    at = ether__member(d, news->missing, ETHER__TEXT("'*'"), t->name);
    while (at && at < d->behind) {
        const char *after = ether__digits(d, at, &number);
        at = after ? after : at + 1;
        if (!after) continue;
        if (odd) lost += ether__gone(t, first, number);
        first = number;
        odd ^= 1;
    }
    return lost;
}

/* Act on the answer to a question for a topic: count what is lost for good, send again what was lost on the way. */
static inline void ether__answered(struct ether *d, const struct ether__news *news, unsigned topic, uint32_t behind) {
    struct ether_topic *t = &d->topics[topic];
    uint32_t *record;
    if (t->mark < t->asked) { /* of what was dropped since, the answer knows nothing */
        ether__give_up(d, topic, ether__lost(d, news, t, behind), t->asked);
        t->news = (uint16_t)(d->tick - 4); /* ask again soon: the recorder must know the new mark */
        return;
    }
    ETHER__EACH(d, record) {
        if (ETHER__TOPIC(record) == topic && record[2] >= t->mark && (ETHER__FLAGS(record) & ETHER__ACKED))
            ETHER__FLAGS(record) = ETHER__AGAIN;
    }
}

/* Take the news of one topic; 0 where they are malformed. */
static inline int ether__told(struct ether *d, const struct ether__news *news, unsigned topic) {
    struct ether_topic *t = &d->topics[topic];
    uint32_t number, behind = 0;
    const char *at = ether__member(d, news->topics, ETHER__TEXT("'*'"), t->name);
    if (at) {
        if (*at != '-') { /* -1: nothing yet */
            if (!ether__digits(d, at, &number)) return 0;
            behind = number < t->next ? number + 1 : t->next;
        }
        t->silent = 0;
        at = ether__member(d, news->first, ETHER__TEXT("'*'"), t->name);
        if (ether__digits(d, at, &number) && number > t->mark) return 1; /* it began later than we: it will be asked */
        if (behind > t->mark) t->mark = behind;
        at = news->topics; /* there was something */
    } else if (news->answer && t->mark < t->next && t->silent < 3) {
        t->silent++;
    }
    if (at || news->answer) t->news = d->tick;
    if (news->answer) ether__answered(d, news, topic, behind);
    return 1;
}

static inline int ether__stored(struct ether *d, const char *at) {
    struct ether__news news;
    uint32_t number;
    unsigned topic;
    const char *boot = ETHER__MEMBER(at, "'boot'");
    news.topics = ETHER__MEMBER(at, "'topics'");
    if (!boot || !news.topics || !(d->rx_cut || ether__behind(d, at))) return 0;
    if (!ETHER__MATCH(boot, "'#'")) return 1;
    news.first = ETHER__MEMBER(at, "'first'");
    news.missing = ETHER__MEMBER(at, "'missing'");
    news.seen = ETHER__MEMBER(at, "'seen'");
    at = ETHER__MEMBER(at, "'asked'");
    news.answer = d->asking && ether__digits(d, at, &number) && number == d->ask_id;
    if (news.answer) {
        d->asking = 0;
        d->ask_wait = 1;
        d->ask_at = d->tick;
    }
    for (topic = 0; topic < d->topic_count; topic++)
        if (!ether__told(d, &news, topic)) return 0;
    ether__sweep(d);
    return 1;
}

/* Return the first letter of the state that a status tells, which no two have in common. */
static inline char ether__state(struct ether *d, const char *at) {
    const char *state = ETHER__MEMBER(at, "'state'");
    return state && *state == '"' ? state[1] : 0; /* a text has an end, so there is something behind the quote */
}

static inline void ether__recorder(struct ether *d, const char *at) {
    unsigned topic;
    char first = ether__state(d, at);
    uint8_t lively = first == 'i' || first == 'r' || first == 'a'; /* init, ready, alert */
    if (lively) d->recording = 1;
    if (first == 'd') d->recording = 0; /* disconnected */
    for (topic = 0; topic < d->topic_count; topic++) {
        if (lively > d->lively) d->topics[topic].silent = 0;
        if (d->topics[topic].mark < ether__oldest(d, topic) && !d->recording)
            ether__give_up(d, topic, ether__oldest(d, topic) - d->topics[topic].mark, ether__oldest(d, topic));
    }
    if (lively > d->lively) d->ask_wait = 0;
    d->lively = lively;
    ether__sweep(d);
}

/* Set periods as the command `every` says; seconds, to the millisecond. */
static inline int ether__every(struct ether *d, const char *in) {
    uint32_t period = 0;
    unsigned topic, places = 0;
    const char *name, *at = ETHER__MEMBER(in, "'every'");
    if (!at) return 0;
    for (; at < d->behind; at++) {
        uint8_t digit = (uint8_t)(*at - '0');
        if (*at == '.' && !places) {
            places = 1;
        } else if (digit < 10 && period < 400000000) {
            if (places < 4) period = period * 10 + digit;
            if (places) places++;
        } else {
            return 0;
        }
    }
    for (places = places ? places : 1; places < 4; places++) {
        if (period > 400000000) return 0;
        period *= 10;
    }
    if (!period) return 0;
    name = ETHER__MEMBER(in, "'topic'");
    for (topic = 0; topic < d->topic_count; topic++) {
        struct ether_topic *t = &d->topics[topic];
        if (name && !ether__match(d, name, ETHER__TEXT("'*'"), t->name)) continue;
        t->period_ms = period;
        t->due = d->now + period;
    }
    return 1;
}

static inline int ether__pong(struct ether *d, const char *at) {
    if (!ether__behind(d, at) || *at != '{') return 0;
    at = ETHER__MEMBER(at, "'id'");
    ETHER__OPEN("(ether/pong/$){'id':");
    if (at)
        ether__bytes(d, at, d->behind);
    else
        ETHER__SAY("null");
    ETHER__SAY(",'ms':");
    ether__decimal(d, d->high, d->now);
    ether__byte(d, '}');
    return ether__close(d, 0x30, 0);
}

/* Take a message on one of the topics it hears. */
static inline void ether__hear(struct ether *d, unsigned index, const char *at) {
    const char *value = ether__member(d, at, NULL, NULL), *behind = d->behind;
    d->payload = at;
    if (!value) {
        value = at;
        behind = d->end;
    }
    if (d->heard && d->heard(d, (uint8_t)index, value, (uint16_t)(behind - value))) d->counts[ETHER_FAILED]++;
}

/* Take a message; 0 where it is malformed. */
static inline int ether__act(struct ether *d, const char *topic, const char *behind, const char *at) {
    unsigned which, index = 0;
    d->end = behind;
    for (which = 0; which < ETHER__NONE; which++) {
        if (which == ETHER__OTHER) {
            while (index < d->hear_count && ether__match(d, topic, ETHER__TEXT("*"), d->hears[index]) != behind) index++;
            if (index < d->hear_count) break;
        } else if (ether__match(d, topic, ether__form(which), NULL) == behind) {
            break;
        }
    }
    d->end = (const char *)d->rx + d->rx_size;
    if (which == ETHER__STORED) return ether__stored(d, at);
    if (d->rx_cut && which > ETHER__STATUS) return 0; /* of a status the beginning will do */
    if (which == ETHER__RECORDER) ether__recorder(d, at);
    if (which == ETHER__STATUS && (ether__state(d, at) == 'l' || !ETHER__MATCH(ETHER__MEMBER(at, "'boot'"), "'#'")))
        d->todo |= ETHER__READY | ETHER__ABOUT;
    if (which == ETHER__OTHER) ether__hear(d, index, at);
    if (d->rx_kind & 1) return 1; /* a retained command is an old one */
    if (which == ETHER__PING) return ether__pong(d, at);
    if (which == ETHER__EVERY) return ether__every(d, at);
    if (which == ETHER__RESTART) d->restart = 1;
    return 1;
}

/* Take a PUBLISH; 0 where the stream cannot be followed any more. */
static inline int ether__deliver(struct ether *d) {
    unsigned qos = (d->rx_kind >> 1) & 3, size = (unsigned)(d->rx[0] << 8 | d->rx[1]) + 2, place = size + (qos ? 2 : 0);
    if (qos > 1 || d->rx_size < 2) return 0;
    if (size < ETHER_RX && place <= d->rx_size) {
        const char *rx = (const char *)d->rx;
        if (qos) {
            d->ack_id = (uint16_t)(d->rx[size] << 8 | d->rx[size + 1]);
            d->todo |= ETHER__ACK;
        }
        if (ether__act(d, rx + 2, rx + size, rx + place)) return 1;
    }
    d->counts[ETHER_REJECTED]++;
    return 1;
}

/* Take a whole packet; 0 where the stream cannot be followed any more. */
static inline int ether__take(struct ether *d) {
    unsigned id = (unsigned)(d->rx[0] << 8 | d->rx[1]);
    uint32_t *record;
    d->received = d->tick;
    d->todo &= (uint8_t)~ETHER__PINGED;
    if ((d->state == ETHER__GREETED) != (d->rx_kind == 0x20)) return 0;
    if (d->rx_kind >> 4 == 3) return ether__deliver(d);
    if (d->rx_kind == 0xd0) return !d->rx_size;
    if (d->rx_kind == 0x90) {
        if (d->rx[2] > 2) d->counts[ETHER_REJECTED]++; /* the broker refuses the subscription */
        if (++d->granted == d->hear_count + 4) {
            d->state = ETHER__ON;
            d->todo |= ETHER__BORN; /* it has taken what came before: the first status of this boot */
        }
        return d->rx_size == 3;
    }
    if (d->rx_size != 2) return 0;
    if (d->rx_kind == 0x20) {
        d->refused = d->rx[1];
        d->state = ETHER__WELCOME;
        return !d->refused;
    }
    if (d->rx_kind != 0x40) return 0;
    if (!d->flight || id != d->flight_id) return 1;
    d->flight = 0;
    ETHER__EACH(d, record) {
        if (!(ETHER__FLAGS(record) & ETHER__FLIGHT)) continue;
        ETHER__FLAGS(record) ^= ETHER__FLIGHT | ETHER__ACKED;
        if (record[2] == ether__oldest(d, ETHER__TOPIC(record))) d->topics[ETHER__TOPIC(record)].news = d->tick;
    }
    ether__sweep(d);
    return 1;
}

/* Read what is there, up to the end of a packet, and act on it; 0 where none was complete. */
static inline int ether__listen(struct ether *d) {
    int got;
    while (!d->rx_body || d->rx_left) {
        uint8_t byte, *place = d->rx + d->rx_size, room = 1;
        if (!d->rx_body || d->rx_size == ETHER_RX)
            place = &byte;
        else
            room = (uint8_t)(ETHER_RX - d->rx_size < 255 ? ETHER_RX - d->rx_size : 255);
        if (d->rx_body && d->rx_left < room) room = (uint8_t)d->rx_left;
        got = d->read(d->link, place, room);
        if (got == 0) return 0;
        if (got < 0) goto lost;
        if (d->rx_body) {
            d->rx_left -= (unsigned)got;
            if (place == &byte)
                d->rx_cut = 1;
            else
                d->rx_size = (uint16_t)(d->rx_size + got);
        } else if (!d->rx_kind) {
            d->rx_kind = byte;
            if (byte < 0x20) goto lost;
        } else {
            d->rx_left |= (uint32_t)(byte & 127) << d->rx_shift;
            d->rx_shift = (uint8_t)(d->rx_shift + 7);
            d->rx_body = !(byte & 128);
            if (d->rx_shift == 28 && !d->rx_body) goto lost;
        }
    }
    if (!ether__take(d)) goto lost;
    d->rx_kind = d->rx_shift = d->rx_body = d->rx_cut = 0;
    d->rx_size = 0;
    return 1;
lost:
    d->state = ETHER__OFF;
    return 0;
}

/* ------------------------------------------------------------------------------------------ public */

/* Say hello on a link that has just been opened. The link of before is forgotten; what waits in the ring is not. Returns 0
   where name, user and password are too long for ETHER_TX: nothing is said. */
static inline int ether_connect(struct ether *device) {
    struct ether *d = device;
    uint32_t *record;
    ether__now(d);
    d->state = ETHER__GREETED;
    d->since = d->received = d->tick;
    d->todo &= ETHER__BORN;
    d->todo |= d->todo ? ETHER__READY | ETHER__ABOUT : ETHER__INIT | ETHER__READY | ETHER__ABOUT;
    d->flight = d->lively = d->subscribed = d->granted = d->asking = 0;
    d->rx_kind = d->rx_shift = d->rx_body = d->rx_cut = 0;
    d->ask_wait = 0;
    d->rx_size = 0;
    d->rx_left = 0;
    d->tail = NULL;
    ETHER__EACH(d, record) ETHER__FLAGS(record) &= (uint8_t)~ETHER__FLIGHT;
    ETHER__OPEN("(MQTT)\4");
    ether__byte(d, 0x2eu | (d->user ? 0x80 : 0) | (d->password ? 0x40 : 0));
    ether__say(d, ETHER__TEXT("=($-#)(ether/status/$)({'state':'lost','boot':'#','detail':'connection lost'})"), NULL,
               d->keepalive_s);
    if (d->user) ether__say(d, ETHER__TEXT("(*)"), d->user, 0);
    if (d->password) ether__say(d, ETHER__TEXT("(*)"), d->password, 0);
    return ether__close(d, 0x10, 0);
}

/* Prepare a device whose fields are set. Returns 1, or 0 where ETHER_TX or ETHER_RX is too small for its name, user,
   password and topics. Call it once after each start. */
static inline int ether_begin(struct ether *device) {
    struct ether *d = device;
    unsigned topic = 8, need = (unsigned)strlen(d->name), longest = 0, fits;
    uint32_t boot = d->boot;
    while (topic--) {
        unsigned digit = (unsigned)boot & 15;
        d->boot_text[topic] = (char)(digit + (digit < 10 ? '0' : 'a' - 10));
        boot >>= 4;
    }
    if (!d->keepalive_s) d->keepalive_s = 30;
    if (!d->every_s) d->every_s = 10;
    d->id = ETHER_FIRST_ID;
    fits = (unsigned)ether_connect(d);
    d->state = ETHER__OFF;
    d->room = (uint16_t)(ETHER_TX - 98 - need);
    for (topic = 0; topic < d->topic_count; topic++) {
        unsigned size = (unsigned)strlen(d->topics[topic].name);
        if (size > longest) longest = size;
        need += size + 14;
        d->topics[topic].due = d->now;
    }
    d->room = (uint16_t)(d->room - longest);
    return fits && need + 94 <= ETHER_TX && need + 70 <= ETHER_RX;
}

/* Do what can be done at once: write, read, answer. Call it often. Returns ETHER_UP; ETHER_CONNECTING until the broker
   has taken all subscriptions; ETHER_DOWN where there is no link: close it, open it again when you like, and call
   ether_connect(). Readings may be put in whatever it returned. */
static inline int ether_poll(struct ether *device) {
    struct ether *d = device;
    unsigned wait, turns = 8; /* a flood must not keep you from sampling */
    ether__now(d);
    while (d->state && turns--) {
        if (!ether__drain(d)) break;
        if (d->state == ETHER__LEAVING && !(d->todo & ETHER__GOODBYE)) d->state = ETHER__OFF;
        if (!ether__speak(d) && !(d->state && ether__listen(d))) break;
    }
    wait = d->keepalive_s * 4u;
    if (ether__past(d, d->received, wait) || ((d->flight || d->state != ETHER__ON) && ether__past(d, d->since, wait)))
        d->state = ETHER__OFF;
    return d->state == ETHER__OFF ? ETHER_DOWN : d->state < ETHER__ON ? ETHER_CONNECTING : ETHER_UP;
}

/* Keep a reading until it is recorded: JSON of `size` bytes, 255 at most: a number, `true`, a text with its quotes, or a flat
   object. It is stamped now. The oldest makes room where the ring is full, and is counted as dropped if it is lost.
   Returns 0, and counts it as failed, where it is too long for ETHER_TX or ETHER_RING. */
static inline int ether_put(struct ether *device, uint8_t topic, const char *json, uint16_t size) {
    struct ether *d = device;
    unsigned words = ETHER__WORDS(size);
    uint32_t *record;
    if (topic >= d->topic_count || !size || size > 255 || size > d->room || words > ETHER_RING / 4 ||
        (size < 3 && *json == '{')) {
        d->counts[ETHER_FAILED]++;
        return 0;
    }
    ether__now(d);
    while (d->used + words > ETHER_RING / 4) ether__drop(d);
    record = d->ring + d->used;
    d->used = (uint16_t)(d->used + words);
    ETHER__SIZE(record) = (uint8_t)size;
    ETHER__TOPIC(record) = topic;
    ETHER__FLAGS(record) = 0;
    ETHER__HIGH(record) = d->high;
    record[1] = d->now;
    record[2] = d->topics[topic].next++;
    memcpy(record + 3, json, size);
    return 1;
}

/* The same with a whole number. */
static inline int ether_put_int(struct ether *device, uint8_t topic, int32_t value) {
    char text[11];
    uint8_t at = sizeof text;
    uint32_t rest = value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
    do {
        text[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (value < 0) text[--at] = '-';
    return ether_put(device, topic, text + at, (uint16_t)(sizeof text - at));
}

/* The same with a truth value. */
static inline int ether_put_bool(struct ether *device, uint8_t topic, int value) {
    return value ? ether_put(device, topic, "true", 4) : ether_put(device, topic, "false", 5);
}

/* The same with a number, of seven significant digits; what is no number is null. */
static inline int ether_put_float(struct ether *device, uint8_t topic, float value) {
    char text[20], digits[10];
    uint32_t bits, rest;
    int16_t power, point = 0, whole, place; /* value = rest * 2^power * 10^point */
    uint8_t at = 0, first = sizeof digits, exponent = 0;
    memcpy(&bits, &value, 4);
    power = (int16_t)((bits >> 23) & 255);
    rest = bits & 0x7fffff;
    if (power == 255) return ether_put(device, topic, "null", 4);
    if (power) rest |= 0x800000;
    for (power = (int16_t)((power ? power : 1) - 150); power < 0 && rest; power++) {
        while (rest <= 0x19999999) rest *= 10, point--;
        rest = (rest >> 1) + (rest & (rest >> 1) & 1);
    }
    for (; power > 0; power--) {
        if (rest > 0x7fffffff) rest /= 10, point++;
        rest <<= 1;
    }
    while (rest > 9999999) rest = rest / 10 + (rest % 10 > 4), point++;
    while (rest && rest % 10 == 0) rest /= 10, point++;
    do {
        digits[--first] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (bits >> 31) text[at++] = '-';
    bits = sizeof digits - first;
    whole = (int16_t)((int16_t)bits + point); /* digits before the point */
    if (whole > 10 || whole < -4) {
        point = (int16_t)(whole - 1);
        whole = exponent = 1;
    }
    for (place = (int16_t)(whole > 0 ? 0 : whole - 1); place < (int16_t)bits || place <= whole - exponent; place++) {
        if (place == whole) text[at++] = '.';
        text[at++] = place < 0 || place >= (int16_t)bits ? '0' : digits[first + place];
    }
    if (exponent) {
        text[at++] = 'e';
        if (point < 0) text[at++] = '-', point = (int16_t)-point;
        text[at++] = (char)('0' + point / 10);
        text[at++] = (char)('0' + point % 10);
    }
    return ether_put(device, topic, text, at);
}

/* Write the head of a CBOR item: its kind, and its value or size. */
static inline void ether__head(struct ether *d, unsigned kind, unsigned high, uint32_t low) {
    unsigned width = high ? 8 : low > 0xffff ? 4 : low > 0xff ? 2 : low > 23 ? 1 : 0;
    static const uint8_t codes[] = {0, 24, 25, 0, 26, 0, 0, 0, 27};
    ether__byte(d, kind | (width ? codes[width] : (unsigned)low));
    while (width--) ether__byte(d, width > 4 ? 0 : width == 4 ? high : (unsigned)(low >> 8 * width) & 255);
}

/* Send a block of samples that were taken evenly, the first one `age_ms` ago, at QoS 0: what is lost is a hole that shows,
   for it is numbered and not kept. Keep a topic for blocks only. Little-endian processors only.

   kind: ETHER_INT16 …
   period_us: from sample to sample.

   Returns 1 where it was written; 0 where there is no connection, the line takes nothing, or it does not fit into
   ETHER_TX with about 90 bytes more: then it has no number, and may be offered again. */
static inline int ether_block(struct ether *device, uint8_t topic, uint8_t kind, const void *samples, uint16_t count,
                              uint32_t period_us, uint32_t age_ms) {
    struct ether *d = device;
    struct ether_topic *t = &d->topics[topic];
    const char *first = (const char *)samples;
    uint32_t size = (uint32_t)count << ((kind >> 4 & 1) + (kind & 3)), bits;
    float period_ms = (float)period_us / 1000;
    if (d->state != ETHER__ON || !ether__drain(d) || size > ETHER_TX) return 0;
    ether__now(d);
    ether__open(d, ETHER__TEXT("(*)\xd9\xd9\xf7\xa2" "evalue\xd8"), t->name);
    ether__byte(d, kind);
    ether__head(d, 0x40, 0, size);
    ether__bytes(d, first, first + size);
    ETHER__SAY("f_ether\xa6" "bby");
    ether__head(d, 0x60, 0, (uint32_t)strlen(d->name));
    ETHER__SAY("$ab" "h#an");
    ether__head(d, 0, 0, t->next);
    ETHER__SAY("bms");
    ether__head(d, 0, (unsigned)(d->high - (d->now < age_ms)), d->now - age_ms);
    ETHER__SAY("ak");
    ether__head(d, 0, 0, count);
    ETHER__SAY("bdt");
    if (period_us % 1000 == 0) {
        ether__head(d, 0, 0, period_us / 1000);
    } else { /* as a double, which not every processor has */
        memcpy(&bits, &period_ms, 4);
        ether__byte(d, 0xfb);
        size = (((bits >> 23) + 1023 - 127) << 20) | (bits >> 3 & 0xfffff);
        ether__say(d, ETHER__TEXT("="), NULL, size >> 16);
        ether__say(d, ETHER__TEXT("="), NULL, size);
        ether__say(d, ETHER__TEXT("="), NULL, bits << 29 >> 16);
        ether__say(d, ETHER__TEXT("="), NULL, 0);
    }
    if (!ether__close(d, 0x30, 0)) return 0;
    t->next += count;
    t->mark = t->next;
    return 1;
}

/* Return whether it is time to sample a topic; samples that were missed because nobody asked are counted. */
static inline int ether_due(struct ether *device, uint8_t topic) {
    struct ether_topic *t = &device->topics[topic];
    uint32_t late;
    ether__now(device);
    late = device->now - t->due;
    if (!t->period_ms || late > 0x7fffffff) return 0;
    device->counts[ETHER_MISSED] += late / t->period_ms;
    t->due += (late / t->period_ms + 1) * t->period_ms;
    return 1;
}

/* Say that something is wrong, or with NULL that all is well again. The text stays yours, holds no quotes, and is left out
   where it is too long for ETHER_TX. */
static inline void ether_alert(struct ether *device, const char *detail) {
    device->detail = detail;
    device->todo |= ETHER__READY;
}

/* Say goodbye, with the last numbers, so that the recording is known to be complete: call it, and ether_poll(), until that
   returns ETHER_DOWN. What is not stored by then, ether_unstored(), is lost. */
static inline void ether_end(struct ether *device) {
    if (device->state != ETHER__LEAVING) device->todo |= ETHER__GOODBYE;
}

/* Return how many readings wait to be recorded. */
static inline uint16_t ether_unstored(const struct ether *device) {
    const uint32_t *record;
    uint16_t count = 0;
    ETHER__EACH(device, record) count++;
    return count;
}

/* Return the JSON of a field of the message that `heard` is called with, and its size; NULL where it has none. */
static inline const char *ether_field(struct ether *device, const char *name, uint16_t *size) {
    const char *at = ether__member(device, device->payload, ETHER__TEXT("'*'"), name);
    if (at) *size = (uint16_t)(device->behind - at);
    return at;
}

/* Return whether a value is `true`, `on` or `1`, in quotes or not. */
static inline int ether_truth(const char *value, uint16_t size) {
    if (size > 2 && *value == '"') value++, size = (uint16_t)(size - 2);
    return (size == 4 && !memcmp(value, "true", 4)) || (size == 2 && !memcmp(value, "on", 2)) ||
           (size == 1 && *value == '1');
}

#endif
