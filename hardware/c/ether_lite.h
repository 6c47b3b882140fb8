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

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef ETHER_RX
#define ETHER_RX 160 /* bytes of the longest message that can be received, topic included */
#endif
#ifndef ETHER_TX
#define ETHER_TX 160 /* bytes of the longest message that can be sent; what is longer in the ring goes in several */
#endif
#ifndef ETHER_RING
#define ETHER_RING 164 /* bytes for readings that are not recorded yet; 4, and for each 12 and its text, rounded up to 4 */
#endif
#ifndef ETHER_MISSING
#define ETHER_MISSING 1 /* 0: what the ring had to drop counts as lost, though the recorder may have it */
#endif
#ifndef ETHER_EVERY
#define ETHER_EVERY 1 /* 0: the command `every` is ignored */
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

#ifdef __GNUC__ /* a function of its own, where the compiler's choice is larger; _AVR: on an AVR only */
#define ETHER__FAR static __attribute__((noinline, unused))
#else
#define ETHER__FAR static inline
#endif
#ifdef __AVR__
#define ETHER__FAR_AVR ETHER__FAR
#else
#define ETHER__FAR_AVR static inline
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
    uint8_t state, todo, high, matching, batch_count, ask_id;
    uint8_t tail, lively, subscribed, granted, asking, ask_wait, rx_kind, rx_shift, rx_cut;  /* of a connection */

    /* To be read. */
    uint8_t recording; /* somebody records */
    uint8_t restart;   /* a restart was commanded: do it when it suits */
    uint8_t refused;   /* why the broker last refused the connection: return code of its CONNACK */

    /* To be set before ether_begin(); what is left out is 0. */
    uint8_t topic_count;
    uint8_t hear_count;
    uint16_t keepalive_s; /* 0 is 30, at most 16000; a dead link is noticed within it */
    uint16_t every_s;     /* 0 is 10, at most 16000: how often the status is repeated */

    uint16_t rx_size, tx_size, tx_at, used, id, flight_id;              /* private */
    uint16_t tick, since, sent, received, said, ask_at;                 /* private; in units of 256 ms */
    uint32_t now, number, rx_left;                                      /* private */
    const char *text, *end, *behind, *payload, *detail;                 /* private */
    uint32_t *batch;                                                    /* private */

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
    uint8_t tx[ETHER_TX], rx[ETHER_RX + 1];
    uint32_t ring[ETHER_RING / 4];
};

/* ------------------------------------------------------------------------------------------ private: small things */

typedef uint_fast8_t ether__fast; /* 8 bits where these are cheaper */

enum { ETHER__OFF, ETHER__GREETED, ETHER__WELCOME, ETHER__ON, ETHER__LEAVING }; /* state */
enum { ETHER__DO_INIT = 1, ETHER__DO_READY = 2, ETHER__DO_ABOUT = 4, ETHER__DO_GOODBYE = 8, ETHER__DO_ACK = 16, ETHER__DO_PINGED = 32,
       ETHER__DO_BORN = 64, ETHER__DO_BRIEF = 128 }; /* todo, and what has been done */
enum { ETHER__FLIGHT = 1, ETHER__ACKED = 2, ETHER__AGAIN = 4, ETHER__GONE = 8 }; /* of a record */
enum { ETHER__TAILED = 1 }; /* in place of the kind of a packet: the self-description, which is longer than any buffer */

/* A record: one word of its size in bytes, topic, flags and bits 32 to 39 of ms; ms; number; text, filled up with zeros. */
#define ETHER__SIZE(record) ((uint8_t *)(record))[0]
#define ETHER__TOPIC(record) ((uint8_t *)(record))[1]
#define ETHER__FLAGS(record) ((uint8_t *)(record))[2]
#define ETHER__HIGH(record) ((uint8_t *)(record))[3]
#define ETHER__AFTER(record) ((uint32_t *)((uint8_t *)(record) + ETHER__SIZE(record)))
#define ETHER__ROOM (ETHER_RING / 4 * 4 - 4) /* the last word is for the 0 behind the last record */
#define ETHER__LONGEST (ETHER__ROOM < 252 ? ETHER__ROOM - 12 : 240) /* text */
#define ETHER__END(device) ((uint32_t *)((uint8_t *)(device)->ring + (device)->used))
#define ETHER__EACH(device, record) \
    for (record = (device)->ring; ETHER__SIZE(record); record = ETHER__AFTER(record)) /* to the 0 behind the last one */
#define ETHER__OF(device, record) (&(device)->topics[ETHER__TOPIC(record)]) /* the topic of a record */

static inline void ether__now(struct ether *d) {
    uint32_t now = (uint32_t)d->ms();
    if (now < d->now) d->high++;
    d->now = now;
    d->tick = (uint16_t)(now >> 8);
}

/* Return whether so many ticks have passed. */
static inline ether__fast ether__past(const struct ether *d, unsigned since, unsigned ticks) {
    return (uint16_t)(d->tick - since) >= ticks;
}

/* Count one more; as a function, for 32 bits are many instructions on 8. */
ETHER__FAR ether__fast ether__count(struct ether *d, ether__fast which) {
    d->counts[which]++;
    return 0;
}

/* All that is said and compared, in flash. In it ' is a quote, $ the name, # the boot, * `text`, % `number`, ~ a new packet
   id, and what is in parentheses goes behind its length. A capital letter is one of the parts of ether__part(), unless ^
   stands before it. The first four are subscribed to; messages come on the first eight. A packet begins with its kind.
   To find a form is to pass all before it: what is compared often stands early. */
#define ETHER__FORMS(FORM) \
    FORM(RECORDER, "Estatus/recorder") FORM(STORED, "Estored/$") FORM(STATUS, "Estatus/$") FORM(COMMAND, "C+") \
    FORM(PING, "Cping") FORM(EVERY, "Cevery") FORM(RESTART, "Crestart") FORM(OTHER, "*") \
    FORM(KEY, "'*'") FORM(IN_BOOT, "'boot'") FORM(IN_TOPICS, "'topics'") FORM(IN_FIRST, "'first'") FORM(IN_ASKED, "'asked'") \
    FORM(IN_MISSING, "'missing'") FORM(IN_SEEN, "'seen'") FORM(IN_STATE, "'state'") FORM(IN_EVERY, "'every'") \
    FORM(IN_TOPIC, "'topic'") FORM(IN_ID, "'id'") \
    FORM(ETHER, "ether/") FORM(COMMANDS, "Ecommand/$/") FORM(OURS, "'boot':'#'") FORM(PLACE, "(Estatus/$)") \
    FORM(BARE, "(*)") FORM(KEYED, "'*':%") FORM(BOOT, "'#'") FORM(NULL, "null") \
    FORM(DISCONNECTED, "disconnected") FORM(IS_INIT, "init") FORM(ALERT, "alert") FORM(IS_READY, "ready") \
    FORM(DETAIL, ",'detail':'*'") FORM(LAST, ",'last':{M}") FORM(COUNTS, ",'counts':{") \
    FORM(DROPPED, "'dropped':%") FORM(FAILED, "'failed':%") FORM(MISSED, "'missed':%") FORM(REJECTED, "'rejected':%") \
    FORM(RESEND, "Eresend/") FORM(VALUE, "'value':") FORM(K, ",'k':%") \
    FORM(SEND_READINGS, "\x32(R*)~{V,'_ether':{'by':'$','b':'#','n':%,'ms':T}}") \
    FORM(SEND_QUESTION, "\x32(Ecommand/recorder/confirm)~{'by':'$',B,'id':%,'from':{M}}") \
    FORM(SEND_STATUS, "\x33W~{'state':'S',BD,'every':%N}") FORM(SEND_ABOUT, "\1(Eabout/$)~{'ether':1,B,") \
    FORM(SEND_PONG, "\x30(Epong/$){'id':I,'ms':X}") FORM(SEND_ACK, "\100A") FORM(SEND_PING, "\xc0") \
    FORM(SEND_FILTER, "\x82~(Q)\1") FORM(SEND_GOODBYE, "\xe0") \
    FORM(SEND_CONNECT, "\x10(^M^Q^T^T)\4F($-#)W({'state':'lost',B,'detail':'connection lost'})U")
#define ETHER__INDEX(name, text) ETHER__##name,
#define ETHER__LITERAL(name, text) text "\0"
enum { ETHER__FORMS(ETHER__INDEX) ETHER__FORM_COUNT };
static const char ether__forms[] ETHER_FLASH = ETHER__FORMS(ETHER__LITERAL);

/* ------------------------------------------------------------------------------------------ private: writing */

/* Write a byte, or compare it with the one at `behind`, which is NULL from the first difference on. */
static inline void ether__byte(struct ether *d, uint8_t byte) {
    if (d->matching) {
        const char *at = d->behind;
        if (at) d->behind = at < d->end && (uint8_t)*at == byte ? at + 1 : NULL;
        return;
    }
    if (d->tx_size < ETHER_TX) d->tx[d->tx_size] = (uint8_t)byte;
    d->tx_size++; /* more than ETHER_TX tells that it was too long */
}

static inline void ether__bytes(struct ether *d, const char *at, const char *end) {
    while (at < end) ether__byte(d, (uint8_t)*at++);
}

static inline void ether__pair(struct ether *d, unsigned pair) {
    ether__byte(d, pair >> 8);
    ether__byte(d, pair);
}

/* Write a number of 40 bits in decimal, byte by byte, and without a division: these are large on small processors. */
static inline void ether__decimal(struct ether *d, unsigned high, uint32_t low) {
    char digits[13], *at = digits + sizeof digits;
    uint8_t bytes[5], some;
    for (some = 0; some < 4; some++, low >>= 8) bytes[some] = (uint8_t)low;
    bytes[4] = (uint8_t)high;
    do {
        uint16_t rest = 0;
        ether__fast index = 5;
        some = 0;
        while (index--) {
            rest = (uint16_t)(rest << 8 | bytes[index]);
            bytes[index] = (uint8_t)((uint32_t)rest * 6554 >> 16); /* a tenth, exact below 16389 */
            some |= bytes[index];
            rest = (uint16_t)(rest - bytes[index] * 10);
        }
        *--at = (char)('0' + rest);
    } while (some);
    ether__bytes(d, at, digits + sizeof digits);
}

static inline void ether__part(struct ether *d, char letter);

/* Write a form. */
static inline void ether__say(struct ether *d, const char *form) {
    uint16_t place = 0;
    char c;
    while ((c = ETHER__BYTE(form++))) {
        const char *put = NULL;
        if (c == '$') put = d->name;
        if (c == '#') put = d->boot_text;
        if (c == '*') put = d->text;
        if (put) {
            while (*put) ether__byte(d, (uint8_t)*put++);
        } else if (c == '(') {
            place = d->tx_size += 2;
        } else if (c == ')') {
            uint16_t size = (uint16_t)(d->tx_size - place);
            if (d->tx_size > ETHER_TX) continue;
            d->tx[place - 2] = (uint8_t)(size >> 8);
            d->tx[place - 1] = (uint8_t)size;
        } else if (c == '%') {
            ether__decimal(d, 0, d->number);
        } else if (c == '~') {
            if (!++d->id) d->id = 1;
            ether__pair(d, d->id);
        } else if (c >= 'A' && c <= 'Z') {
            ether__part(d, c);
        } else {
            if (c == '^') c = ETHER__BYTE(form++);
            ether__byte(d, (uint8_t)(c == '\'' ? '"' : c));
        }
    }
}

/* Return the text of a form. */
ETHER__FAR const char *ether__form(ether__fast which) {
    const char *form = ether__forms;
    while (which--)
        while (ETHER__BYTE(form++)) {}
    return form;
}

static inline void ether__tell(struct ether *d, ether__fast which) {
    ether__say(d, ether__form(which));
}

/* Return the form of a topic that is heard; its text is ready. */
ETHER__FAR_AVR ether__fast ether__topic(struct ether *d, unsigned which) {
    if (which < ETHER__OTHER) return (ether__fast)which;
    d->text = d->hears[which - ETHER__OTHER];
    return ETHER__OTHER;
}

/* End the packet that was written; 0 where it was too long: it is not sent. */
static inline ether__fast ether__close(struct ether *d, unsigned kind) {
    unsigned size = d->tx_size - 3u;
    if (d->tx_size > ETHER_TX) {
        d->number = d->tx_size; /* what it would have been */
        d->tx_size = 0;
        return 0;
    }
    if (kind == ETHER__TAILED) { /* the self-description follows by itself */
        const char *at = d->text = d->about;
        while (size++, ETHER__BYTE(at++)) {}
        d->tail = 1;
        kind = 0x33;
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

/* Write a packet: a form, behind its kind. */
static inline ether__fast ether__packet(struct ether *d, ether__fast which) {
    const char *form = ether__form(which);
    d->tx_size = 3; /* the fixed header comes last, when the length is known */
    ether__say(d, form + 1);
    return ether__close(d, (uint8_t)ETHER__BYTE(form));
}

/* Write what is ready; 1 where nothing is left of it. */
static inline ether__fast ether__drain(struct ether *d) {
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
            char c = ETHER__BYTE(d->text++);
            if (!c) {
                d->tail = 0;
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

static inline ether__fast ether__recorded(const struct ether *d, const struct ether_topic *t) {
    return d->recording && t->silent < 3;
}

/* Free what was dropped, is below its topic's mark, or was taken by the broker and is recorded by nobody. */
static inline void ether__sweep(struct ether *d) {
    uint32_t *from = d->ring;
    uint8_t *to = (uint8_t *)from;
    ether__fast size;
    while ((size = ETHER__SIZE(from))) {
        struct ether_topic *t = ETHER__OF(d, from);
        if ((ETHER__FLAGS(from) & ETHER__ACKED) && !ether__recorded(d, t)) t->mark = from[2] + 1;
        if (!(ETHER__FLAGS(from) & ETHER__GONE) && from[2] >= t->mark) {
            memmove(to, from, size);
            to += size;
        }
        from = (uint32_t *)((uint8_t *)from + size);
    }
    *to = 0;
    d->used = (uint16_t)(to - (uint8_t *)d->ring);
}

/* Drop the oldest reading. Where somebody records, it may be stored: the recorder will be asked. */
static inline void ether__drop(struct ether *d) {
    struct ether_topic *t = ETHER__OF(d, d->ring);
    if (!ether__recorded(d, t)) {
        ether__count(d, ETHER_DROPPED);
        t->mark = d->ring[2] + 1;
    }
    ETHER__FLAGS(d->ring) |= ETHER__GONE;
    ether__sweep(d);
}

/* Forget that anything was sent that has no acknowledgement yet. */
ETHER__FAR void ether__land(struct ether *d) {
    uint32_t *record;
    ETHER__EACH(d, record) ETHER__FLAGS(record) &= (uint8_t)~ETHER__FLIGHT;
}

/* Give up what the ring does not hold of a topic below a number; so much of it is lost. */
ETHER__FAR void ether__give_up(struct ether *d, struct ether_topic *t, uint32_t lost, uint32_t mark) {
    d->counts[ETHER_DROPPED] += lost;
    t->mark = mark;
    d->todo |= ETHER__DO_READY;
}

/* ------------------------------------------------------------------------------------------ private: what is sent */

/* Write a number for each topic: its mark; in the goodbye its last one. */
static inline void ether__numbers(struct ether *d) {
    ether__fast topic, first = 1;
    for (topic = 0; topic < d->topic_count; topic++) {
        const struct ether_topic *t = &d->topics[topic];
        uint32_t end = t->next, number = t->mark;
        if (d->state == ETHER__LEAVING) {
            number = end - 1;
            end = 0xffffffff;
        }
        if (number == end) continue; /* nothing to tell */
        d->number = number;
        d->text = t->name;
        if (!first) ether__byte(d, ',');
        ether__tell(d, ETHER__KEYED);
        first = 0;
    }
}

/* Write what is counted and is not 0. */
static inline void ether__counts(struct ether *d) {
    ether__fast index, some = 0;
    for (index = 0; index < 4; index++) {
        d->number = d->counts[index];
        if (!d->number) continue;
        if (some)
            ether__byte(d, ',');
        else
            ether__tell(d, ETHER__COUNTS);
        ether__tell(d, (uint8_t)(ETHER__DROPPED + index));
        some = 1;
    }
    if (some) ether__byte(d, '}');
}

/* Write the text of a record but for so many bytes at both ends. */
static inline void ether__text(struct ether *d, const uint32_t *record, unsigned less) {
    const char *end = (const char *)ETHER__AFTER(record);
    while (!end[-1]) end--;
    ether__bytes(d, (const char *)(record + 3) + less, end - less);
}

/* Write the values of a message's readings; or their times, which marks them as sent. */
static inline void ether__series(struct ether *d, ether__fast times) {
    uint32_t *record = d->batch;
    ether__fast topic = ETHER__TOPIC(record), left = d->batch_count, many = left > 1;
    if (many) ether__byte(d, '[');
    for (;; record = ETHER__AFTER(record)) {
        if (ETHER__TOPIC(record) != topic) continue;
        if (times) {
            ether__decimal(d, ETHER__HIGH(record), record[1]);
            ETHER__FLAGS(record) |= ETHER__FLIGHT;
        } else {
            ether__text(d, record, 0);
        }
        if (!--left) break;
        ether__byte(d, ',');
    }
    if (many) ether__byte(d, ']');
}

static inline void ether__values(struct ether *d) {
    if (*(const char *)(d->batch + 3) == '{') { /* an object is its own fields */
        ether__text(d, d->batch, 1);
    } else {
        ether__tell(d, ETHER__VALUE);
        ether__series(d, 0);
    }
}

/* Write a part of what is said. */
static inline void ether__part(struct ether *d, char letter) {
    ether__fast form = ETHER__FORM_COUNT;
    const char *at;
    ether__fast brief = d->todo & (ETHER__DO_INIT | ETHER__DO_BRIEF);
    switch (letter) {
    case 'E': form = ETHER__ETHER; break;
    case 'C': form = ETHER__COMMANDS; break;
    case 'B': form = ETHER__OURS; break;
    case 'W': form = ETHER__PLACE; break;
    case 'M': ether__numbers(d); break;
    case 'A': /* the id to acknowledge */
        at = (const char *)d->rx + 2 + (d->rx[0] << 8 | d->rx[1]);
        ether__bytes(d, at, at + 2);
        break;
    case 'F': /* flags and keepalive */
        ether__byte(d, 0x2eu | (d->user ? 0x80 : 0) | (d->password ? 0x40 : 0));
        ether__pair(d, d->keepalive_s);
        break;
    case 'U': /* user and password */
        if ((d->text = d->user)) ether__tell(d, ETHER__BARE);
        if ((d->text = d->password)) form = ETHER__BARE;
        break;
    case 'S': /* state */
        form = d->state == ETHER__LEAVING  ? ETHER__DISCONNECTED
               : d->todo & ETHER__DO_INIT     ? ETHER__IS_INIT
               : d->detail                 ? ETHER__ALERT
                                           : ETHER__IS_READY;
        break;
    case 'D': /* detail */
        if (!brief && (d->text = d->detail)) form = ETHER__DETAIL;
        break;
    case 'N': /* counts and last numbers */
        if (!brief) ether__counts(d);
        if (d->state == ETHER__LEAVING) form = ETHER__LAST;
        break;
    case 'R':
        if (ETHER__FLAGS(d->batch) & ETHER__AGAIN) form = ETHER__RESEND;
        break;
    case 'V': ether__values(d); break;
    case 'T': /* times */
        ether__series(d, 1);
        d->number = d->batch_count;
        if (d->number > 1) form = ETHER__K;
        break;
    case 'I': /* the id of a ping */
        if (d->text)
            ether__bytes(d, d->text, d->behind);
        else
            form = ETHER__NULL;
        break;
    case 'Q': form = ether__topic(d, d->subscribed < 4 ? d->subscribed : d->subscribed + 3u); break;
    case 'X': ether__decimal(d, d->high, d->now); break;
    }
    if (form != ETHER__FORM_COUNT) ether__tell(d, form);
}

static inline void ether__status(struct ether *d) {
    do {
        d->number = d->every_s;
        if (ether__packet(d, ETHER__SEND_STATUS)) break;
        d->todo ^= ETHER__DO_BRIEF;
    } while (d->todo & ETHER__DO_BRIEF);
    d->todo &= (uint8_t)~ETHER__DO_BRIEF;
}

/* Send the oldest readings that wait for it, as many as a message holds. */
static inline ether__fast ether__send(struct ether *d) {
    uint32_t *record, *first = NULL;
    ether__fast count = 0;
    ETHER__EACH(d, record) {
        ether__fast flags = ETHER__FLAGS(record);
        if (!first) {
            if (flags & (ETHER__FLIGHT | ETHER__ACKED)) continue;
            first = record;
        } else {
            if (ETHER__TOPIC(record) != ETHER__TOPIC(first)) continue;
            if (flags != ETHER__FLAGS(first) || *(char *)(record + 3) == '{' || *(char *)(first + 3) == '{') break;
        }
        if (++count == 255) break;
    }
    if (!first) return 0;
    d->batch = first;
    d->batch_count = count;
    while (d->number = first[2], d->text = ETHER__OF(d, first)->name, !ether__packet(d, ETHER__SEND_READINGS)) {
        ether__land(d);
        count = d->batch_count;
        while (d->number * --d->batch_count > (uint32_t)count * ETHER_TX) {} /* so many may fit */
    }
    d->flight_id = d->id;
    d->since = d->tick;
    return 1;
}

/* Ask the recorder what it has, if there is a doubt. */
static inline ether__fast ether__ask(struct ether *d) {
    ether__fast topic, doubt = d->used && (ETHER__FLAGS(d->ring) & ETHER__ACKED) &&
                           ether__past(d, ETHER__OF(d, d->ring)->news, 4);
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
    d->number = ++d->ask_id;
    return ether__packet(d, ETHER__SEND_QUESTION);
}

/* Make the next packet that is due; 0 where none is. */
static inline ether__fast ether__speak(struct ether *d) {
    ether__fast todo = d->todo;
    unsigned half = d->keepalive_s * 2u;
    if (todo & ETHER__DO_ACK) {
        d->todo ^= ETHER__DO_ACK;
        return ether__packet(d, ETHER__SEND_ACK);
    }
    if (d->state < ETHER__WELCOME) return 0;
    if (d->state == ETHER__LEAVING) {
        if (!(todo & ETHER__DO_GOODBYE)) return 0;
        d->todo ^= ETHER__DO_GOODBYE;
        return ether__packet(d, ETHER__SEND_GOODBYE);
    }
    if (todo & ETHER__DO_INIT) {
        ether__status(d);
        d->todo ^= ETHER__DO_INIT;
    } else if ((todo & ETHER__DO_READY) || ether__past(d, d->said, d->every_s * 4u)) {
        d->todo &= (uint8_t)~ETHER__DO_READY;
        d->said = d->tick;
        ether__status(d);
    } else if (todo & ETHER__DO_ABOUT) {
        d->todo ^= ETHER__DO_ABOUT;
        if (d->about) ether__packet(d, ETHER__SEND_ABOUT);
    } else if (d->subscribed < d->hear_count + 4) {
        ether__packet(d, ETHER__SEND_FILTER);
        d->subscribed++;
    } else if (todo & ETHER__DO_GOODBYE) {
        d->state = ETHER__LEAVING;
        ether__status(d);
    } else if (!(todo & ETHER__DO_PINGED) && (ether__past(d, d->sent, half) || ether__past(d, d->received, half))) {
        d->todo |= ETHER__DO_PINGED;
        ether__packet(d, ETHER__SEND_PING);
    } else {
        return d->state == ETHER__ON && (ether__ask(d) || (!d->flight_id && ether__send(d)));
    }
    return 1;
}

/* ------------------------------------------------------------------------------------------ private: JSON, as it came */

/* Return the place behind what matches a form; NULL where it does not. */
ETHER__FAR const char *ether__match(struct ether *d, const char *at, ether__fast form) {
    d->behind = at;
    d->matching = 1;
    ether__tell(d, form);
    d->matching = 0;
    return d->behind;
}

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
static inline const char *ether__member(struct ether *d, const char *at, ether__fast form) {
    if (!at || at >= d->end || *at != '{') return NULL;
    for (at++;;) {
        const char *key = ether__gap(d, at), *behind;
        int found;
        if (key >= d->end || *key != '"' || !(at = ether__behind(d, key))) return NULL;
        at = ether__gap(d, at);
        if (!(behind = ether__behind(d, at))) return NULL;
        found = form != ETHER__FORM_COUNT ? ether__match(d, key, form) != NULL : key[1] != '_';
        d->behind = behind;
        if (found) return at;
        at = behind;
    }
}

/* Return a member of the message. */
ETHER__FAR const char *ether__field(struct ether *d, ether__fast form) {
    return ether__member(d, d->payload, form);
}

/* Read the digits at a place into `number`; return the place behind them, NULL where there are none, or more than 32 bits
   hold. */
static inline const char *ether__digits(struct ether *d, const char *at) {
    const char *begin = at;
    uint32_t number = 0;
    while (at && at < d->end && (uint8_t)(*at - '0') < 10) {
        if (number > 429496728) return NULL;
        number = number * 10 + (uint8_t)(*at++ - '0');
    }
    d->number = number;
    return at > begin ? at : NULL;
}

/* ------------------------------------------------------------------------------------------ private: what is heard */

/* Return what a member of the message has of a topic. */
static inline const char *ether__of_topic(struct ether *d, ether__fast form, const struct ether_topic *t) {
    const char *at = ether__field(d, form);
    d->text = t->name;
    return ether__member(d, at, ETHER__KEY);
}

/* Return how many of the numbers from `first` on and below `end` are among those from the mark on that the ring no longer
   had when it asked. */
ETHER__FAR_AVR uint32_t ether__gone(const struct ether_topic *t, uint32_t first, uint32_t end) {
    if (first < t->mark) first = t->mark;
    if (end > t->asked) end = t->asked;
    return first < end ? end - first : 0;
}

/* Return how many of those were not stored: what is at or behind `behind`, unless the recorder has seen it, and what it
   lists as missing. */
ETHER__FAR_AVR uint32_t ether__lost(struct ether *d, const struct ether_topic *t, uint32_t behind) {
    uint32_t first = 0, lost;
    const char *at;
    ether__fast odd = 0;
    if (!ETHER_MISSING || d->rx_cut) return t->asked - t->mark; /* cut: too long to be read to its end */
    if (ether__digits(d, ether__of_topic(d, ETHER__IN_SEEN, t)) && d->number >= behind) behind = d->number + 1;
    lost = ether__gone(t, behind, t->asked);
    at = ether__of_topic(d, ETHER__IN_MISSING, t);
    while (at && at < d->behind) {
        const char *after = ether__digits(d, at);
        at = after ? after : at + 1;
        if (!after) continue;
        if (odd) lost += ether__gone(t, first, d->number + 1);
        first = d->number;
        odd ^= 1;
    }
    return lost;
}

/* Take the news of one topic, which may answer a question; 0 where they are malformed. */
ETHER__FAR ether__fast ether__told(struct ether *d, unsigned topic, ether__fast answer) {
    struct ether_topic *t = &d->topics[topic];
    uint32_t *record, behind = 0;
    const char *at = ether__of_topic(d, ETHER__IN_TOPICS, t);
    if (at) {
        if (*at != '-') { /* -1: nothing yet */
            if (!ether__digits(d, at)) return 0;
            behind = d->number < t->next ? d->number + 1 : t->next;
        }
        t->silent = 0;
        if (ether__digits(d, ether__of_topic(d, ETHER__IN_FIRST, t)) && d->number > t->mark)
            return 1; /* it began later than we: it will be asked */
        if (behind > t->mark) t->mark = behind;
    } else if (!answer) {
        return 1;
    } else if (t->mark < t->next && t->silent < 3) {
        t->silent++;
    }
    t->news = d->tick;
    if (!answer) return 1;
    if (t->mark < t->asked) { /* count what is lost for good; of what was dropped since, the answer knows nothing */
        ether__give_up(d, t, ether__lost(d, t, behind), t->asked);
        t->news = (uint16_t)(d->tick - 4); /* ask again soon: the recorder must know the new mark */
        return 1;
    }
    ETHER__EACH(d, record) { /* send again what was lost on the way */
        if (ETHER__TOPIC(record) == topic && record[2] >= t->mark && (ETHER__FLAGS(record) & ETHER__ACKED))
            ETHER__FLAGS(record) = ETHER__AGAIN;
    }
    return 1;
}

static inline ether__fast ether__stored(struct ether *d) {
    ether__fast topic, answer;
    const char *boot = ether__field(d, ETHER__IN_BOOT);
    if (!boot || !ether__field(d, ETHER__IN_TOPICS) || !(d->rx_cut || ether__behind(d, d->payload))) return 0;
    if (!ether__match(d, boot, ETHER__BOOT)) return 1;
    answer = d->asking && ether__digits(d, ether__field(d, ETHER__IN_ASKED)) && d->number == d->ask_id;
    if (answer) {
        d->asking = 0;
        d->ask_wait = 1;
        d->ask_at = d->tick;
    }
    for (topic = 0; topic < d->topic_count; topic++)
        if (!ether__told(d, topic, answer)) return 0;
    ether__sweep(d);
    return 1;
}

/* Return the first letter of the state that a status tells, which no two have in common. */
static inline char ether__state(struct ether *d) {
    const char *state = ether__field(d, ETHER__IN_STATE);
    return state && *state == '"' ? state[1] : 0; /* a text has an end, so there is something behind the quote */
}

ETHER__FAR void ether__recorder(struct ether *d) {
    ether__fast topic;
    char first = ether__state(d);
    ether__fast lively = first == 'i' || first == 'r' || first == 'a'; /* init, ready, alert */
    if (lively) d->recording = 1;
    if (first == 'd') d->recording = 0; /* disconnected */
    for (topic = 0; topic < d->topic_count; topic++) {
        struct ether_topic *t = &d->topics[topic];
        uint32_t oldest = ether__oldest(d, topic);
        if (lively > d->lively) t->silent = 0;
        if (t->mark < oldest && !d->recording) ether__give_up(d, t, oldest - t->mark, oldest);
    }
    if (lively > d->lively) d->ask_wait = 0;
    d->lively = lively;
    ether__sweep(d);
}

/* Set periods as the command `every` says; seconds, to the millisecond. */
static inline ether__fast ether__every(struct ether *d) {
    uint32_t period;
    ether__fast topic;
    uint16_t place = 100;
    const char *at = ether__digits(d, ether__field(d, ETHER__IN_EVERY)), *end = d->behind;
    period = d->number * 1000;
    if (!at || d->number > 4000000) return 0;
    if (*at == '.' && at < end) {
        while (++at < end && (uint8_t)(*at - '0') < 10) {
            period += (uint32_t)(uint8_t)(*at - '0') * place;
            place = (uint16_t)(place * 205u >> 11); /* a tenth */
        }
    }
    if (at != end || !period) return 0;
    at = ether__field(d, ETHER__IN_TOPIC);
    for (topic = 0; topic < d->topic_count; topic++) {
        struct ether_topic *t = &d->topics[topic];
        d->text = t->name;
        if (at && !ether__match(d, at, ETHER__KEY)) continue;
        t->period_ms = period;
        t->due = d->now + period;
    }
    return 1;
}

static inline ether__fast ether__pong(struct ether *d) {
    if (!ether__behind(d, d->payload) || *d->payload != '{') return 0;
    d->text = ether__field(d, ETHER__IN_ID);
    return ether__packet(d, ETHER__SEND_PONG);
}

/* Take a message on one of the topics it hears. */
static inline void ether__hear(struct ether *d, unsigned index) {
    const char *value = ether__member(d, d->payload, ETHER__FORM_COUNT), *behind = d->behind;
    if (!value) {
        value = d->payload;
        behind = d->end;
    }
    if (d->heard && d->heard(d, (uint8_t)index, value, (uint16_t)(behind - value))) ether__count(d, ETHER_FAILED);
}

/* Take a message on a topic that ends so; 0 where it is malformed. */
static inline ether__fast ether__act(struct ether *d, const char *behind) {
    unsigned which = 0, count = d->hear_count + ETHER__OTHER;
    d->end = behind;
    while (which < count && ether__match(d, (const char *)d->rx + 2, ether__topic(d, which)) != behind) which++;
    d->end = (const char *)d->rx + d->rx_size;
    if (which == count) return 1;
    if (which == ETHER__STORED) return ether__stored(d);
    if (d->rx_cut && which > ETHER__STATUS) return 0; /* of a status the beginning will do */
    if (which == ETHER__RECORDER) ether__recorder(d);
    if (which == ETHER__STATUS &&
        (ether__state(d) == 'l' || !ether__match(d, ether__field(d, ETHER__IN_BOOT), ETHER__BOOT))) {
        d->todo |= ETHER__DO_ABOUT;
        d->said = (uint16_t)(d->tick - d->every_s * 4u + 4); /* in a second: two boards of one name would answer for ever */
    }
    if (which >= ETHER__OTHER) ether__hear(d, which - ETHER__OTHER);
    if (d->rx_kind & 1) return 1; /* a retained command is an old one */
    if (which == ETHER__PING) return ether__pong(d);
    if (ETHER_EVERY && which == ETHER__EVERY) return ether__every(d);
    if (which == ETHER__RESTART) d->restart = 1;
    return 1;
}

/* Take a PUBLISH; 0 where the stream cannot be followed any more. */
static inline ether__fast ether__deliver(struct ether *d) {
    ether__fast qos = d->rx_kind & 6;
    unsigned size = (unsigned)(d->rx[0] << 8 | d->rx[1]) + 2, place = size + qos;
    if (qos > 2 || d->rx_size < 2) return 0;
    if (size < ETHER_RX && place <= d->rx_size) {
        if (qos) d->todo |= ETHER__DO_ACK;
        d->payload = (const char *)d->rx + place;
        if (ether__act(d, (const char *)d->rx + size)) return 1;
    }
    ether__count(d, ETHER_REJECTED);
    return 1;
}

/* Take a whole packet; 0 where the stream cannot be followed any more. */
static inline ether__fast ether__take(struct ether *d) {
    ether__fast kind = d->rx_kind;
    uint32_t *record;
    d->received = d->tick;
    d->todo &= (uint8_t)~ETHER__DO_PINGED;
    if ((d->state == ETHER__GREETED) != (kind == 0x20)) return 0;
    if (kind >> 4 == 3) return ether__deliver(d);
    if (kind == 0xd0) return !d->rx_size;
    if (kind == 0x90) {
        if (d->rx[2] > 2) ether__count(d, ETHER_REJECTED); /* the broker refuses the subscription */
        if (++d->granted == d->hear_count + 4) {
            d->state = ETHER__ON;
            d->todo |= ETHER__DO_BORN; /* it has taken what came before: the first status of this boot */
        }
        return d->rx_size == 3;
    }
    if (d->rx_size != 2) return 0;
    if (kind == 0x20) {
        d->refused = d->rx[1];
        d->state = ETHER__WELCOME;
        return !d->refused;
    }
    if (kind != 0x40) return 0;
    if ((uint16_t)(d->rx[0] << 8 | d->rx[1]) != d->flight_id) return 1;
    d->flight_id = 0;
    ETHER__EACH(d, record) {
        if (!(ETHER__FLAGS(record) & ETHER__FLIGHT)) continue;
        ETHER__FLAGS(record) ^= ETHER__FLIGHT | ETHER__ACKED;
        if (record[2] == ether__oldest(d, ETHER__TOPIC(record))) ETHER__OF(d, record)->news = d->tick;
    }
    ether__sweep(d);
    return 1;
}

/* Read what is there, up to the end of a packet, and act on it; 0 where none was complete. */
static inline ether__fast ether__listen(struct ether *d) {
    while (d->rx_shift < 128 || d->rx_left) { /* the length is read, and so much of the body is not */
        uint8_t *place = d->rx + d->rx_size;
        uint16_t room = 1; /* one byte of a header, or of what is skipped */
        int got;
        if (d->rx_shift == 128 && d->rx_size < ETHER_RX) {
            room = (uint16_t)(ETHER_RX - d->rx_size);
            if (d->rx_left < room) room = (uint16_t)d->rx_left;
        }
        got = d->read(d->link, place, room);
        if (got == 0) return 0;
        if (got < 0) goto lost;
        if (d->rx_shift == 128) {
            d->rx_left -= (unsigned)got;
            if (d->rx_size == ETHER_RX)
                d->rx_cut = 1;
            else
                d->rx_size = (uint16_t)(d->rx_size + got);
        } else if (!d->rx_kind) {
            d->rx_kind = *place;
            if (d->rx_kind < 0x20) goto lost;
        } else {
            d->rx_left |= (uint32_t)(*place & 127) << d->rx_shift;
            d->rx_shift = (uint8_t)(*place & 128 ? d->rx_shift + 7 : 128);
            if (d->rx_shift == 28) goto lost;
        }
    }
    if (!ether__take(d)) goto lost;
    d->rx_kind = d->rx_shift = d->rx_cut = 0;
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
    ether__now(d);
    d->state = ETHER__GREETED;
    d->since = d->received = d->tick;
    d->todo &= ETHER__DO_BORN;
    d->todo |= d->todo ? ETHER__DO_READY | ETHER__DO_ABOUT : ETHER__DO_INIT | ETHER__DO_READY | ETHER__DO_ABOUT;
    memset((char *)d + offsetof(struct ether, tail), 0, offsetof(struct ether, rx_cut) + 1 - offsetof(struct ether, tail));
    d->rx_size = d->flight_id = 0;
    d->rx_left = 0;
    ether__land(d);
    return ether__packet(d, ETHER__SEND_CONNECT);
}

/* Prepare a device whose fields are set. Returns 1, or 0 where ETHER_TX or ETHER_RX is too small for its name, user,
   password and topics. Call it once after each start. */
static inline int ether_begin(struct ether *device) {
    struct ether *d = device;
    unsigned index, need = (unsigned)strlen(d->name);
    uint32_t boot = d->boot;
    int fits;
    for (index = 8; index--; boot >>= 4) {
        ether__fast digit = (uint8_t)boot & 15;
        d->boot_text[index] = (char)(digit + (digit < 10 ? '0' : 'a' - 10));
    }
    if (!d->keepalive_s) d->keepalive_s = 30;
    if (!d->every_s) d->every_s = 10;
    d->id = ETHER_FIRST_ID;
    fits = ether_connect(d);
    d->state = ETHER__OFF;
    for (index = 0; index < d->topic_count; index++) {
        d->topics[index].due = d->now;
        need += (unsigned)strlen(d->topics[index].name) + 14;
    }
    return fits && need <= (ETHER_TX - 94 < ETHER_RX - 70 ? ETHER_TX - 94 : ETHER_RX - 70);
}

/* Do what can be done at once: write, read, answer. Call it often. Returns ETHER_UP; ETHER_CONNECTING until the broker
   has taken all subscriptions; ETHER_DOWN where there is no link: close it, open it again when you like, and call
   ether_connect(). Readings may be put in whatever it returned. */
static inline int ether_poll(struct ether *device) {
    struct ether *d = device;
    unsigned wait;
    ether__fast turns = 8; /* a flood must not keep you from sampling */
    ether__now(d);
    while (d->state && turns--) {
        if (!ether__drain(d)) break;
        if (d->state == ETHER__LEAVING && !(d->todo & ETHER__DO_GOODBYE)) d->state = ETHER__OFF;
        if (!ether__speak(d) && !(d->state && ether__listen(d))) break;
    }
    wait = d->keepalive_s * 4u;
    if (ether__past(d, d->received, wait) || ((d->flight_id || d->state != ETHER__ON) && ether__past(d, d->since, wait)))
        d->state = ETHER__OFF;
    return d->state == ETHER__OFF ? ETHER_DOWN : d->state < ETHER__ON ? ETHER_CONNECTING : ETHER_UP;
}

/* Keep a reading until it is recorded: JSON of `size` bytes, 240 at most: a number, `true`, a text with its quotes, or a flat
   object. It is stamped now. The oldest makes room where the ring is full, and is counted as dropped if it is lost.
   Returns 0, and counts it as failed, where it is too long for ETHER_TX or ETHER_RING. */
static inline int ether_put(struct ether *device, uint8_t topic, const char *json, uint16_t size) {
    struct ether *d = device;
    ether__fast whole = (uint8_t)((size + 15) & ~3);
    uint32_t *record;
    if (topic >= d->topic_count || !size || size > ETHER__LONGEST || (size < 3 && *json == '{') ||
        size + strlen(d->name) + strlen(d->topics[topic].name) > ETHER_TX - 98)
        return ether__count(d, ETHER_FAILED);
    ether__now(d);
    while ((uint16_t)(d->used + whole) > ETHER__ROOM) ether__drop(d);
    record = ETHER__END(d);
    d->used = (uint16_t)(d->used + whole);
    memset(record, 0, whole + 1u); /* the 0 behind the last record, too */
    ETHER__SIZE(record) = (uint8_t)whole;
    ETHER__TOPIC(record) = topic;
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
    d->tx_size = 3;
    d->text = t->name;
    ether__say(d, ETHER__TEXT("(*)\xd9\xd9\xf7\xa2" "evalue\xd8"));
    ether__byte(d, kind);
    ether__head(d, 0x40, 0, size);
    ether__bytes(d, first, first + size);
    ether__say(d, ETHER__TEXT("f_ether\xa6" "bby"));
    ether__head(d, 0x60, 0, (uint32_t)strlen(d->name));
    ether__say(d, ETHER__TEXT("$ab" "h#an"));
    ether__head(d, 0, 0, t->next);
    ether__say(d, ETHER__TEXT("bms"));
    ether__head(d, 0, (unsigned)(d->high - (d->now < age_ms)), d->now - age_ms);
    ether__say(d, ETHER__TEXT("ak"));
    ether__head(d, 0, 0, count);
    ether__say(d, ETHER__TEXT("bdt"));
    if (period_us % 1000 == 0) {
        ether__head(d, 0, 0, period_us / 1000);
    } else { /* as a double, which not every processor has */
        memcpy(&bits, &period_ms, 4);
        ether__byte(d, 0xfb);
        size = (((bits >> 23) + 1023 - 127) << 20) | (bits >> 3 & 0xfffff);
        ether__pair(d, (unsigned)(size >> 16));
        ether__pair(d, (unsigned)size);
        ether__pair(d, (unsigned)(bits << 29 >> 16));
        ether__pair(d, 0);
    }
    if (!ether__close(d, 0x30)) return 0;
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
    device->todo |= ETHER__DO_READY;
}

/* Say goodbye, with the last numbers, so that the recording is known to be complete: call it, and ether_poll(), until that
   returns ETHER_DOWN. What is not stored by then, ether_unstored(), is lost. */
static inline void ether_end(struct ether *device) {
    if (device->state != ETHER__LEAVING) device->todo |= ETHER__DO_GOODBYE;
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
    const char *at;
    device->text = name;
    at = ether__member(device, device->payload, ETHER__KEY);
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
