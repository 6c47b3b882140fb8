/* As much of Arduino's core as the examples use, to see that they compile. Nothing behind it. */
#ifndef ARDUINO_H
#define ARDUINO_H
#include <stddef.h>
#include <stdint.h>
typedef uint8_t byte;
enum { LOW, HIGH, INPUT, OUTPUT, A0 = 14, A1 = 15 };
unsigned long millis(void);
unsigned long micros(void);
void pinMode(uint8_t pin, uint8_t mode);
void digitalWrite(uint8_t pin, uint8_t value);
int analogRead(uint8_t pin);
long random(long bound);
void randomSeed(unsigned long seed);
class IPAddress {
public:
    IPAddress(uint8_t, uint8_t, uint8_t, uint8_t);
};
class Client {
public:
    virtual int connect(const char *host, uint16_t port) = 0;
    virtual int connect(IPAddress host, uint16_t port) = 0;
    virtual size_t write(const uint8_t *bytes, size_t size) = 0;
    virtual int available() = 0;
    virtual int read(uint8_t *bytes, size_t size) = 0;
    virtual void stop() = 0;
    virtual uint8_t connected() = 0;
};
#endif
