/* What a firmware grows by that uses all of the client: the size of this object, but for its few lines. */
#include "ether_lite.h"

extern struct ether device;
char ram[sizeof(struct ether) + 2 * sizeof(struct ether_topic)];

int begin(void) { return ether_begin(&device); }
void greet(void) { ether_connect(&device); }
int turn(void) { return ether_poll(&device); }
int put(const char *json, uint16_t size) { return ether_put(&device, 0, json, size); }
#ifdef EVERYTHING
int put_int(int32_t value) { return ether_put_int(&device, 0, value); }
int put_bool(int value) { return ether_put_bool(&device, 0, value); }
int put_float(float value) { return ether_put_float(&device, 0, value); }
int block(const void *samples, uint16_t count) { return ether_block(&device, 0, ETHER_INT16, samples, count, 500, 0); }
int due(void) { return ether_due(&device, 0); }
void alert(const char *detail) { ether_alert(&device, detail); }
void end(void) { ether_end(&device); }
int unstored(void) { return ether_unstored(&device); }
const char *field(uint16_t *size) { return ether_field(&device, "x", size); }
int truth(const char *value, uint16_t size) { return ether_truth(value, size); }
#endif
