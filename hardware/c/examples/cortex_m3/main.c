/*
 * A device on a bare Cortex-M3 (TI LM3S6965): no operating system, no network stack. UART0 is its line: at the other end
 * is a TCP stream to the broker, made by a serial server (ser2net, an ESP with its bridge firmware), or by QEMU:
 *
 *     arm-none-eabi-gcc -mcpu=cortex-m3 -mthumb -Os -std=c99 -I../.. -nostartfiles -T lm3s6965.ld main.c -o bench.elf
 *     qemu-system-arm -M lm3s6965evb -kernel bench.elf -display none -monitor none \
 *         -chardev socket,id=line,host=127.0.0.1,port=1883,reconnect=1 -serial chardev:line
 *
 * It counts on m3/temp, takes m3/led and says on m3/led/state what it took.
 */
#include "ether_lite.h"

#ifndef SLOW_PERCENT
#define SLOW_PERCENT 0 /* how much too slow its clock is, to try what the recorder makes of it */
#endif
#define CLOCK_HZ 12500000ul
#define COUNTS_PER_MS (CLOCK_HZ / 1000 * (100 + SLOW_PERCENT) / 100)

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define RCC REGISTER(0x400fe060)
#define RCGC1 REGISTER(0x400fe104)
#define UART0_DR REGISTER(0x4000c000)
#define UART0_FR REGISTER(0x4000c018)
#define UART0_IBRD REGISTER(0x4000c024)
#define UART0_FBRD REGISTER(0x4000c028)
#define UART0_LCRH REGISTER(0x4000c02c)
#define UART0_CTL REGISTER(0x4000c030)
#define TIMER0_TAMR REGISTER(0x40030004)
#define TIMER0_CTL REGISTER(0x4003000c)
#define TIMER0_IMR REGISTER(0x40030018)
#define TIMER0_ICR REGISTER(0x40030024)
#define TIMER0_TAILR REGISTER(0x40030028)
#define NVIC_ENABLE REGISTER(0xe000e100)
#define SYSTICK_CTRL REGISTER(0xe000e010)
#define SYSTICK_LOAD REGISTER(0xe000e014)
#define SYSTICK_VALUE REGISTER(0xe000e018)
#define AIRCR REGISTER(0xe000ed0c)

enum { TEMP, LAMP };

static struct ether_topic topics[] = {ETHER_TOPIC("m3/temp", 100), ETHER_TOPIC("m3/led/state", 0)};
static const char *const hears[] = {"m3/led"};
static const char about[] ETHER_FLASH =
    ETHER_JSON("class":"CortexM3","version":"1.0","outbox":"memory","clock":"ms",
               "publishes":{"m3/temp":{"fields":{"value":{"type":"integer"}},"every":0.1},"m3/led/state":{}},
               "subscribes":{"m3/led":{"fields":{"value":{"type":"integer"}},"methods":["led"]}});
static struct ether device;
static volatile uint8_t lamp;
/* RAM that no reset clears: a counter that began as noise is a new boot id at each start. */
static uint32_t starts __attribute__((section(".noinit")));

static int line_write(void *link, const uint8_t *bytes, uint16_t size) {
    uint16_t taken = 0;
    (void)link;
    while (taken < size) { /* 14 ms for the longest packet */
        while (UART0_FR & 0x20) {
        }
        UART0_DR = bytes[taken++];
    }
    return taken;
}

static int line_read(void *link, uint8_t *bytes, uint16_t size) {
    uint16_t got = 0;
    (void)link;
    while (got < size && !(UART0_FR & 0x10)) bytes[got++] = (uint8_t)UART0_DR;
    return got;
}

/* SysTick counts down by itself, so that no millisecond is lost to an interrupt that comes late; ask once a second. */
static unsigned long since_start(void) {
    static uint32_t ms, rest, before;
    uint32_t now = SYSTICK_VALUE;
    rest += (before - now) & 0xffffff;
    before = now;
    ms += rest / COUNTS_PER_MS;
    rest %= COUNTS_PER_MS;
    return ms;
}

/* Throw away what is left of the last connection, until the line has been quiet for a tenth of a second. */
static void line_reopen(void) {
    unsigned long quiet = since_start();
    uint8_t byte;
    while (since_start() - quiet < 100) {
        if (line_read(NULL, &byte, 1)) quiet = since_start();
    }
}

static int on_heard(struct ether *d, uint8_t index, const char *value, uint16_t size) {
    (void)index;
    lamp = (uint8_t)ether_truth(value, size);
    return !ether_put(d, LAMP, value, size);
}

static void set_up(void) {
    RCC = 0x07c00380; /* 12.5 MHz: the PLL's 200 MHz by 16, from the 8 MHz crystal */
    RCGC1 |= 0x10001;
    SYSTICK_LOAD = 0xffffff;
    SYSTICK_VALUE = 0;
    SYSTICK_CTRL = 5;
    TIMER0_TAMR = 2; /* periodic: it wakes the processor */
    TIMER0_TAILR = CLOCK_HZ / 1000 - 1;
    TIMER0_IMR = 1;
    TIMER0_CTL = 1;
    NVIC_ENABLE = 1 << 19;
    UART0_IBRD = CLOCK_HZ / (16 * 115200);
    UART0_FBRD = (CLOCK_HZ * 4 / 115200) % 64;
    UART0_LCRH = 0x70; /* 8 bits, queues on */
    UART0_CTL = 0x301;
    device.name = "m3";
    device.boot = ++starts;
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
    int32_t number = 0;
    set_up();
    for (;;) {
        if (ether_due(&device, TEMP)) ether_put_int(&device, TEMP, number++ % 1000);
        if (ether_poll(&device) == ETHER_DOWN) {
            if (device.restart) AIRCR = 0x05fa0004;
            line_reopen();
            ether_connect(&device);
        }
        if (device.restart) ether_end(&device);
        __asm volatile("wfi"); /* until the next millisecond */
    }
}

/* ------------------------------------------------------------------------------------------ start */

extern uint32_t text_end[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];

void on_reset(void) {
    uint32_t *from = text_end, *to = data_start;
    while (to < data_end) *to++ = *from++;
    for (to = bss_start; to < bss_end;) *to++ = 0;
    main();
}

static void on_timer(void) {
    TIMER0_ICR = 1;
}

static void on_fault(void) {
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16 + 20] = {
    stack_top, (void *)on_reset, (void *)on_fault, (void *)on_fault, (void *)on_fault, (void *)on_fault, (void *)on_fault,
    0, 0, 0, 0, (void *)on_fault, (void *)on_fault, 0, (void *)on_fault, (void *)on_fault,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (void *)on_timer}; /* interrupt 19 is Timer0 A */
