// again.c: saves over and over, with nothing between.
#include "../bare/protocol.h"

int main(void) {
  char* memory = malloc(MIB);
  alarm(PROTOCOL_SECONDS);
  fill(memory, MIB, 1);
  for (;;) save();
}
