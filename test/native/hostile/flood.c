// flood.c: talks to the daemon as fast as it can, from eight processes at once, and says nothing that makes sense.
//
// usage: flood SECONDS requests|garbage	requests there are none of, as long as the connection lasts; or a few bytes, and closes
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "peer.h"

#define PROCESSES 8
#define UNKNOWN 9

static void send_requests(double until) {
  struct peer peer;
  dial(&peer);
  const struct ckpt_wire_request request = {.version = CKPT_WIRE_VERSION, .type = UNKNOWN};
  while (seconds() < until && send(peer.socket, &request, sizeof request, MSG_NOSIGNAL) > 0) continue;
  close(peer.socket);
}

static void send_garbage(void) {
  struct peer peer;
  dial(&peer);
  send(peer.socket, "garbage", 7, MSG_NOSIGNAL);
  close(peer.socket);
}

int main(int count, char** args) {
  if (count != 3) bad("usage");
  const double until = seconds() + atof(args[1]);
  for (int i = 0; i < PROCESSES; i++) {
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (seconds() < until) {
      if (strcmp(args[2], "requests") == 0)
        send_requests(until);
      else
        send_garbage();
    }
    _exit(0);
  }
  say("floods\n");
  while (wait(NULL) > 0) continue;
  say("ok\n");
  return 0;
}
