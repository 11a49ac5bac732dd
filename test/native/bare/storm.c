// storm.c: opens markers over and over without ever looking for the answer.
//
// usage: storm TIMES	opens the marker so often, both by turns a hundred times, then goes a proper round
//        storm exit	arms and ends at once
//        storm stall	arms and waits for a line on stdin; never looks
//        storm mute	saves, opens the other marker, and waits in the same way
#include <fcntl.h>

#include "protocol.h"

#define BYTES MIB

static void open_once(const char* marker) {
  int file = open(marker, O_CREAT | O_WRONLY, 0600);
  if (file >= 0) close(file);
}

static void wait_for_line(void) {
  char byte;
  say("waiting\n");
  do {
    if (read(STDIN_FILENO, &byte, 1) != 1) bad("stdin ended");
  } while (byte != '\n');
}

int main(int count, char** args) {
  if (count != 2) bad("usage");
  char* memory = malloc(BYTES);
  fill(memory, BYTES, 1);
  alarm(PROTOCOL_SECONDS * 3);
  if (strcmp(args[1], "exit") == 0) {
    open_once("/tmp/ready_to_checkpoint");
    _exit(0);
  }
  if (strcmp(args[1], "stall") == 0) {
    open_once("/tmp/ready_to_checkpoint");
    wait_for_line();
  } else if (strcmp(args[1], "mute") == 0) {
    save();
    open_once("/tmp/ready_to_restore");
    wait_for_line();
  } else {
    long times = atol(args[1]);
    for (long i = 0; i < times; i++) open_once("/tmp/ready_to_checkpoint");
    for (int i = 0; i < 100; i++) open_once(i % 2 ? "/tmp/ready_to_checkpoint" : "/tmp/ready_to_restore");
    say("opened %ld times\n", times);
  }
  fill(memory, BYTES, 2);
  save();
  fill(memory, BYTES, 3);
  say("ruined\n");
  recover();
  check("memory", memory, BYTES, 2);
  say("ok\n");
  return 0;
}
