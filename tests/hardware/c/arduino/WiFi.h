#include "Arduino.h"
enum { WL_CONNECTED = 3 };
class WiFiClient : public Client {
public:
    int connect(const char *host, uint16_t port) override;
    int connect(IPAddress host, uint16_t port) override;
    size_t write(const uint8_t *bytes, size_t size) override;
    int available() override;
    int read(uint8_t *bytes, size_t size) override;
    void stop() override;
    uint8_t connected() override;
    void setNoDelay(bool on);
};
class WiFiRadio {
public:
    int begin(const char *name, const char *password);
    int status();
};
extern WiFiRadio WiFi;
#ifdef ESP32
uint32_t esp_random(void);
class EspBoard {
public:
    void restart();
};
extern EspBoard ESP;
#endif
