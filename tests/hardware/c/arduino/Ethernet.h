#include "Arduino.h"
class EthernetClient : public Client {
public:
    int connect(const char *host, uint16_t port) override;
    int connect(IPAddress host, uint16_t port) override;
    size_t write(const uint8_t *bytes, size_t size) override;
    int available() override;
    int read(uint8_t *bytes, size_t size) override;
    void stop() override;
    uint8_t connected() override;
    void setConnectionTimeout(uint16_t ms);
};
class EthernetShield {
public:
    int begin(byte *address);
    int maintain();
};
extern EthernetShield Ethernet;
