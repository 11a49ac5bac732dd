// attach-many.c: attaches programs that do nothing to a syscall tracepoint until it is full, says "full", and keeps it so until stdin ends.
//
// usage: attach-many TRACEPOINT      (as root; TRACEPOINT as in sys_enter_access)
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REFILL_MS 20

static void die(const char* what) {
  fprintf(stderr, "attach-many: %s: %s\n", what, strerror(errno));
  exit(1);
}

// A mount of our own that nobody else sees: tracefs need not be mounted.
static int open_tracefs(void) {
  int fs = syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC);
  if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0) die("fsopen tracefs");
  int mount = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
  if (mount < 0) die("fsmount tracefs");
  close(fs);
  return mount;
}

static long tracepoint_id(const char* name) {
  char path[128], text[32] = "";
  snprintf(path, sizeof path, "events/syscalls/%s/id", name);
  int file = openat(open_tracefs(), path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || read(file, text, sizeof text - 1) <= 0) die(path);
  close(file);
  return strtol(text, NULL, 10);
}

static int load_nothing(void) {
  struct bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0},
      {.code = BPF_JMP | BPF_EXIT},
  };
  union bpf_attr attr = {
      .prog_type = BPF_PROG_TYPE_TRACEPOINT,
      .insns = (unsigned long)program,
      .insn_cnt = sizeof program / sizeof program[0],
      .license = (unsigned long)"GPL",
      .prog_name = "attach_many",
  };
  int fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
  if (fd < 0) die("bpf prog load");
  return fd;
}

// False if the tracepoint is full.
static int attach(long id) {
  struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof attr, .config = id, .sample_period = 1, .wakeup_events = 1};
  int event = syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  if (event < 0) die("perf_event_open");
  // The same program cannot be attached twice, so each is loaded anew.
  int program = load_nothing();
  int error = ioctl(event, PERF_EVENT_IOC_SET_BPF, program) == 0 ? 0 : errno;
  close(program);
  if (error != 0) {
    close(event);
    errno = error;
    if (error != E2BIG) die("attach");
    return 0;
  }
  if (ioctl(event, PERF_EVENT_IOC_ENABLE, 0) != 0) die("enable");
  return 1;
}

int main(int count, char** args) {
  if (count != 2) {
    fprintf(stderr, "usage: attach-many TRACEPOINT\n");
    return 2;
  }
  long id = tracepoint_id(args[1]);
  while (attach(id)) {
  }
  puts("full");
  fflush(stdout);
  // Others may leave the tracepoint meanwhile: their places are taken too.
  struct pollfd input = {.fd = 0, .events = POLLIN};
  while (poll(&input, 1, REFILL_MS) == 0) {
    while (attach(id)) {
    }
  }
  return 0;
}
