// A board without a network, as an Arduino sketch: it prints lines. On the other end:
//     ether serial /dev/ttyACM0 --name bench1
// `temp 23.40` is a reading. `ether` on the serial monitor asks for the description, `led true` switches the LED on.

const unsigned long PERIOD_MS = 1000;
unsigned long due = 0;
char line[64];
byte size = 0;

void describe() {
  Serial.println(F("ether {\"class\":\"Bench\",\"version\":\"1.0\","
                   "\"publishes\":{\"temp\":{\"fields\":{\"value\":{\"unit\":\"degC\"}},\"every\":1}},"
                   "\"subscribes\":{\"led\":{\"fields\":{\"value\":{\"type\":\"boolean\"}}}}}"));
}

float temperature() {
  return analogRead(A0) * (500.0 / 1024.0);  // LM35: 10 mV for a degree
}

void obey() {
  if (strcmp(line, "ether") == 0) describe();  // who are you?
  if (strcmp(line, "led true") == 0) digitalWrite(LED_BUILTIN, HIGH);
  if (strcmp(line, "led false") == 0) digitalWrite(LED_BUILTIN, LOW);
}

void setup() {
  pinMode(LED_BUILTIN, OUTPUT);
  Serial.begin(115200);
  Serial.println();  // ends what may be left of an earlier line
  describe();
}

void loop() {
  if (millis() - due >= PERIOD_MS) {
    due += PERIOD_MS;
    Serial.print(F("temp "));
    Serial.println(temperature());
  }
  while (Serial.available()) {
    char c = Serial.read();
    if (c == '\n') {
      line[size] = 0;
      obey();
      size = 0;
    } else if (c != '\r' && size < sizeof line - 1) {
      line[size++] = c;
    }
  }
}
