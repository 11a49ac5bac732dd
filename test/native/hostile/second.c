// second.c: recovers over one connection; half-way a second one of the same process asks for something, or closes.
//
// usage: second save|recover|forget|close	waits for a line half-way: by then others may have saved
//        second idle	the second connection closes while nothing is under way
#define _GNU_SOURCE
#include "peer.h"
#include "secret.h"

#define BYTES (4 * MIB)
#define TRIGGERS 100  // until it is half-way

static void recover_again(struct peer* first, char* memory) {
  fill(memory, BYTES, 3);
  ask(first, CKPT_WIRE_RECOVER, 0, 0);
  expect("the recover after that", end(first), "ok");
  check("memory after that", memory, BYTES, 1);
}

static void begin(struct peer* first) {
  ask(first, CKPT_WIRE_RECOVER, 0, 1);
  if (go_on(first, CKPT_WIRE_BATCH) != CKPT_WIRE_BATCH) bad("recover: %s", first->reply.text);
  for (int i = 0; i < TRIGGERS; i++) go_on(first, CKPT_WIRE_MOVED);
}

static void meddle(struct peer* second, const char* mode) {
  if (strcmp(mode, "close") == 0) {
    close(second->socket);
    say("closed\n");
    return;
  }
  const bool save = strcmp(mode, "save") == 0, forget = strcmp(mode, "forget") == 0;
  ask(second, save ? CKPT_WIRE_SAVE : forget ? CKPT_WIRE_FORGET : CKPT_WIRE_RECOVER, save ? CKPT_PART_ANONYMOUS : 0, 0);
  say("%s: %s\n", mode, answer(second));
}

int main(int count, char** args) {
  struct peer first, second;
  char* memory = map(BYTES, MAP_PRIVATE);
  if (count != 2) bad("usage");
  fill(memory, BYTES, 1);
  dial(&first);
  ask(&first, CKPT_WIRE_SAVE, CKPT_PART_ANONYMOUS, 0);
  expect("save", end(&first), "ok");
  fill(memory, BYTES, 2);
  dial(&second);
  if (strcmp(args[1], "idle") == 0) {
    close(second.socket);
    usleep(100000);
  } else {
    begin(&first);
    meddle(&second, args[1]);
    wait_for_line();
    const char* const outcome = end(&first);
    const int pages = secrets(memory, BYTES);
    if (pages > 0) bad("%d pages of another process", pages);
    expect("recover", outcome, "ok");
    check("memory", memory, BYTES, 1);
  }
  recover_again(&first, memory);
  say("ok\n");
  return 0;
}
