// early.c: plays with the completion files: removes them early, makes them itself, plants other things in their place.
//
// usage: early MODE SECONDS [VICTIM]		gives up waiting after so long
//	removes		removes markers at once, and whatever is there before each look, but for the last
//	makes		makes both completion files itself before it asks: they mean nothing
//	links		plants symlinks to VICTIM there before it asks
//	dangles		plants symlinks to VICTIM, which does not exist, there after it has asked
//	directories fifos	plants those before it asks: they stay, and nothing can be completed
//	cheats		makes the completion file itself after it has asked, and believes it
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "protocol.h"

#define BYTES (2 * MIB)
#define READY_SAVE "/tmp/ready_to_checkpoint"
#define READY_RECOVER "/tmp/ready_to_restore"
#define SAVE_COMPLETE "/tmp/checkpoint_complete"
#define RECOVERED "/tmp/restore_complete"

static void make_file(const char* path) {
  int file = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (file < 0) bad("open %s: %m", path);
  close(file);
}

// Asks, and looks until the file is there or the time is up. `between` is called once, after the marker was opened.
static bool go(const char* marker, const char* complete, double limit, void (*between)(const char*, const char*), const char* victim) {
  double end = seconds() + limit;
  bool came = false;
  make_file(marker);
  remove(marker);
  if (between != NULL) between(complete, victim);
  while (!came && seconds() < end) came = access(complete, F_OK) == 0;
  return came;
}

static void plant_link(const char* path, const char* victim) {
  if (symlink(victim, path) != 0) bad("symlink %s: %m", path);
}

static void make_for_itself(const char* path, const char* victim) {
  (void)victim;
  make_file(path);
}

// What lies there is what was planted.
static bool still(const char* path, mode_t type) {
  struct stat stat;
  return lstat(path, &stat) == 0 && (stat.st_mode & S_IFMT) == type;
}

static void plant_all(const char* mode, const char* victim) {
  const char* paths[] = {SAVE_COMPLETE, RECOVERED};
  for (int i = 0; i < 2; i++) {
    int error = 0;
    if (strcmp(mode, "makes") == 0)
      make_file(paths[i]);
    else if (strcmp(mode, "links") == 0)
      plant_link(paths[i], victim);
    else if (strcmp(mode, "directories") == 0)
      error = mkdir(paths[i], 0755);
    else if (strcmp(mode, "fifos") == 0)
      error = mkfifo(paths[i], 0644);
    if (error != 0) bad("%s: %m", mode);
  }
}

// A whole round after which every byte has to be back.
static void proper_round(char* memory, double limit, bool removes) {
  fill(memory, BYTES, 1);
  if (!go(READY_SAVE, SAVE_COMPLETE, limit, NULL, NULL)) bad("nobody saved it");
  if (removes && remove(SAVE_COMPLETE) != 0) bad("the completion file cannot be removed: %m");
  say("saved\n");
  fill(memory, BYTES, 2);
  say("ruined\n");
  if (!go(READY_RECOVER, RECOVERED, limit, NULL, NULL)) bad("nobody recovered it");
  if (removes && remove(RECOVERED) != 0) bad("the completion file cannot be removed: %m");
  say("recovered\n");
  check("memory", memory, BYTES, 1);
}

// Asks while nothing can come of it; then takes away what it planted.
static void spoiled_round(const char* mode, char* memory, double limit, const char* victim) {
  bool dangles = strcmp(mode, "dangles") == 0, cheats = strcmp(mode, "cheats") == 0;
  fill(memory, BYTES, 5);
  say("%s\n", go(READY_SAVE, SAVE_COMPLETE, limit,
                 dangles  ? plant_link
                 : cheats ? make_for_itself
                          : NULL,
                 victim)
                  ? "looked done"
                  : "waited in vain");
  check("memory", memory, BYTES, 5);
  mode_t type = strcmp(mode, "directories") == 0 ? S_IFDIR : strcmp(mode, "fifos") == 0 ? S_IFIFO : 0;
  if (type != 0 && (!still(SAVE_COMPLETE, type) || !still(RECOVERED, type))) bad("what was planted is gone");
  if (remove(SAVE_COMPLETE) != 0 && errno != ENOENT) bad("remove: %m");
  if (remove(RECOVERED) != 0 && errno != ENOENT) bad("remove: %m");
}

int main(int count, char** args) {
  if (count < 3) bad("usage");
  const char *mode = args[1], *victim = count > 3 ? args[3] : NULL;
  double limit = atof(args[2]);
  char* memory = malloc(BYTES);
  alarm((unsigned)limit * 4 + PROTOCOL_SECONDS);
  plant_all(mode, victim);
  bool spoiled =
      strcmp(mode, "dangles") == 0 || strcmp(mode, "cheats") == 0 || strcmp(mode, "directories") == 0 || strcmp(mode, "fifos") == 0;
  if (spoiled)
    spoiled_round(mode, memory, limit, victim);
  else
    proper_round(memory, PROTOCOL_SECONDS, true);
  // Whatever it did, it is served as ever afterwards.
  proper_round(memory, PROTOCOL_SECONDS, true);
  say("ok\n");
  return 0;
}
