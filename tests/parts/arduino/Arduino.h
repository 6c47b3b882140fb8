// Arduino's library, as far as the sketches need it, for the host: the serial port is stdin and stdout, the LED stderr,
// a byte comes with every 64th look for one, and a millisecond passes at each look at the clock. It ends with its input.
#pragma once
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned char byte;
enum { LOW, HIGH, OUTPUT, A0, LED_BUILTIN };
#define F(text) text

inline unsigned long millis() {
  static unsigned long now = 0;
  return now++;
}
inline void pinMode(int, int) {}
inline int analogRead(int) { return 48; }
inline void digitalWrite(int, int value) { fprintf(stderr, "LED %s\n", value == HIGH ? "on" : "off"); }

struct Port {
  void begin(unsigned long) { setvbuf(stdout, nullptr, _IONBF, 0); }
  void print(const char *text) { fputs(text, stdout); }
  void println(const char *text = "") { printf("%s\r\n", text); }
  void println(double value) { printf("%.2f\r\n", value); }
  int available() {
    static int looks = 0;
    if (++looks % 64) return 0;
    struct pollfd input = {0, POLLIN, 0};
    return poll(&input, 1, 0) > 0;
  }
  int read() {
    unsigned char found;
    if (::read(0, &found, 1) != 1) exit(0);
    return found;
  }
};
inline Port Serial;

void setup();
void loop();
int main() {
  setup();
  for (;;) loop();
}
