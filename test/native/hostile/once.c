// once.c: opens the marker and looks once for the answer, over and over.
#include <fcntl.h>

#include "../bare/bytes.h"

int main(void) {
  alarm(60);
  say("begins\n");
  for (;;) {
    close(open("/tmp/ready_to_checkpoint", O_CREAT | O_WRONLY, 0600));
    (void)!access("/tmp/checkpoint_complete", F_OK);
  }
}
