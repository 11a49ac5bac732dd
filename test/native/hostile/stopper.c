// stopper.c: stops itself, as ^Z does, as soon as it sees that it is saved, and tells if anybody lets it go on.
#include <fcntl.h>
#include <signal.h>

#include "../bare/bytes.h"

int main(void) {
  char* memory = malloc(MIB);
  alarm(60);
  fill(memory, MIB, 1);
  close(open("/tmp/ready_to_checkpoint", O_CREAT | O_WRONLY, 0600));
  while (access("/tmp/checkpoint_complete", F_OK) != 0) continue;
  raise(SIGSTOP);
  say("continued\n");
  pause();
  return 0;
}
