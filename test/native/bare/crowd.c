// crowd.c: so many processes of a user arm, look once, and end.
//
// usage: crowd PROCESSES UID
#include <fcntl.h>
#include <sys/wait.h>

#include "bytes.h"

#define AT_ONCE 32

static void arm_once(uid_t uid) {
  if (setgid(uid) != 0 || setuid(uid) != 0) _exit(2);
  alarm(60);
  int file = open("/tmp/ready_to_checkpoint", O_CREAT | O_WRONLY, 0666);
  if (file >= 0) close(file);
  _exit(access("/tmp/checkpoint_complete", F_OK) == 0 ? 3 : 0);
}

static void wait_for_one(void) {
  int status;
  if (wait(&status) < 0) bad("wait: %m");
  if (status != 0) bad("one ended with %x", status);
}

int main(int count, char** args) {
  if (count != 3) bad("usage");
  int processes = atoi(args[1]), running = 0;
  uid_t uid = (uid_t)atoi(args[2]);
  for (int i = 0; i < processes; i++) {
    if (running++ == AT_ONCE) {
      wait_for_one();
      running--;
    }
    pid_t child = fork();
    if (child < 0) bad("fork: %m");
    if (child == 0) arm_once(uid);
  }
  for (running = running > AT_ONCE ? AT_ONCE : running; running > 0; running--) wait_for_one();
  remove("/tmp/ready_to_checkpoint");
  say("ok\n");
  return 0;
}
