/*
 * A device on a bare Arduino UNO (ATmega328P, 2 KB of RAM): its serial port is the line. At the other end is a TCP stream to
 * the broker, made by a serial server (ser2net, an ESP with its bridge firmware), or by QEMU:
 *
 *     avr-gcc -mmcu=atmega328p -DF_CPU=16000000UL -Os -std=gnu99 -mcall-prologues -I../.. main.c -o bench.elf
 *     qemu-system-avr -M uno -bios bench.elf -display none -monitor none \
 *         -chardev socket,id=line,host=127.0.0.1,port=1883,reconnect=1 -serial chardev:line
 *
 * It counts on uno/temp, switches the lamp of the board by uno/led, and says on uno/led/state what it took.
 */
#include <avr/eeprom.h>
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/wdt.h>

#include "ether_lite.h"

#ifndef SLOW_PERCENT
#define SLOW_PERCENT 0 /* how much too slow its clock is, to try what the recorder makes of it */
#endif
#ifndef FIRST_BOOT
#define FIRST_BOOT 0
#endif
#define BAUD 115200ul
#define COUNTS_PER_MS (F_CPU / 64 / 1000 * (100 + SLOW_PERCENT) / 100)

enum { TEMP, LAMP };

static struct ether_topic topics[] = {ETHER_TOPIC("uno/temp", 100), ETHER_TOPIC("uno/led/state", 0)};
static const char *const hears[] = {"uno/led"};
static const char about[] ETHER_FLASH =
    ETHER_JSON("class":"Uno","version":"1.0","outbox":"memory","clock":"ms",
               "publishes":{"uno/temp":{"fields":{"value":{"type":"integer"}},"every":0.1},"uno/led/state":{}},
               "subscribes":{"uno/led":{"fields":{"value":{"type":"integer"}},"methods":["led"]}});
static struct ether device;
static volatile uint8_t come[128], come_in, come_out; /* what has come: the port itself holds two bytes */

ISR(USART_RX_vect) {
    come[come_in++ & 127] = UDR0;
    if ((uint8_t)(come_in - come_out) == 128) UCSR0B &= (uint8_t)~(1 << RXCIE0); /* full: the rest waits, if it can */
}

static int line_write(void *link, const uint8_t *bytes, uint16_t size) {
    uint16_t taken = 0;
    (void)link;
    while (taken < size) { /* 14 ms for the longest packet */
        while (!(UCSR0A & (1 << UDRE0))) {
        }
        UDR0 = bytes[taken++];
    }
    return (int)taken;
}

static int line_read(void *link, uint8_t *bytes, uint16_t size) {
    uint16_t got = 0;
    (void)link;
    while (got < size && come_out != come_in) bytes[got++] = come[come_out++ & 127];
    UCSR0B |= 1 << RXCIE0;
    return (int)got;
}

/* Timer1 counts on by itself, so that no millisecond is lost to an interrupt that comes late; ask every two seconds. */
static unsigned long since_start(void) {
    static uint32_t ms, rest;
    static uint16_t before;
    uint16_t gone = TCNT1 - before;
    if (gone > 0x7fff) return ms; /* an emulator's counter may step back a little */
    before += gone;
    rest += gone * 16ul;
    ms += rest / COUNTS_PER_MS;
    rest %= COUNTS_PER_MS;
    return ms;
}

/* Throw away what is left of the last connection, until the line has been quiet for a tenth of a second. */
static void line_reopen(void) {
    unsigned long quiet = since_start();
    while (since_start() - quiet < 100) {
        uint8_t byte;
        if (line_read(NULL, &byte, 1)) quiet = since_start();
    }
}

static int on_heard(struct ether *d, uint8_t index, const char *value, uint16_t size) {
    (void)index;
    if (ether_truth(value, size)) PORTB |= 1 << PORTB5;
    else PORTB &= (uint8_t)~(1 << PORTB5);
    return !ether_put(d, LAMP, value, size);
}

/* Return a number that is another one at each start. */
static uint32_t count_starts(void) {
    uint32_t count = eeprom_read_dword((uint32_t *)0) + 1;
    eeprom_update_dword((uint32_t *)0, count);
    return FIRST_BOOT + count;
}

static void set_up(void) {
    wdt_disable();
    DDRB |= 1 << DDB5;
    TCCR1B = (1 << CS12) | (1 << CS10); /* counts each 1024 cycles; Timer0 is Arduino's, and QEMU has none */
    UCSR0A = 1 << U2X0;
    UBRR0 = (F_CPU / 4 / BAUD - 1) / 2;
    UCSR0B = (1 << RXCIE0) | (1 << RXEN0) | (1 << TXEN0);
    sei();
    device.name = "uno";
    device.boot = count_starts();
    device.about = about;
    device.topics = topics;
    device.topic_count = 2;
    device.hears = hears;
    device.hear_count = 1;
    device.write = line_write;
    device.read = line_read;
    device.ms = since_start;
    device.heard = on_heard;
    device.keepalive_s = 4; /* a serial line cannot tell that the connection is gone */
    device.every_s = 2;
    ether_begin(&device);
}

int main(void) {
    int16_t number = 0;
    set_up();
    for (;;) {
        if (ether_due(&device, TEMP)) {
            ether_put_int(&device, TEMP, number);
            number = (int16_t)(number < 999 ? number + 1 : 0);
        }
        if (ether_poll(&device) == ETHER_DOWN) {
            if (device.restart) wdt_enable(WDTO_15MS);
            line_reopen();
            ether_connect(&device);
        }
        if (device.restart) ether_end(&device);
    }
}
