// bytes.h: what the bare programs share: memory filled so that every byte can be checked, and words said at once.
//
// Their memory is rolled back, and their stacks are not: what a program must remember across a restore lies in its local variables.
#ifndef BYTES_H
#define BYTES_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

// The 8 bytes at a place: another value for each place and each seed.
static inline uint64_t word_at(uint64_t seed, size_t index) {
  uint64_t word = (seed + 1) * 0x9e3779b97f4a7c15u + index * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 29)) * 0x94d049bb133111ebu;
  return word ^ (word >> 32);
}

static inline void fill(void* memory, size_t bytes, uint64_t seed) {
  char* to = memory;
  for (size_t at = 0; at < bytes; at += 8) {
    uint64_t word = word_at(seed, at);
    memcpy(to + at, &word, bytes - at < 8 ? bytes - at : 8);
  }
}

// The offset of the first byte that fill() did not put there; -1: all are right.
static inline long differs(const void* memory, size_t bytes, uint64_t seed) {
  const char* from = memory;
  for (size_t at = 0; at < bytes; at += 8) {
    uint64_t word = word_at(seed, at);
    size_t length = bytes - at < 8 ? bytes - at : 8;
    if (memcmp(from + at, &word, length) == 0) continue;
    while (memcmp(from + at, (char*)&word + at % 8, 1) == 0) at++;
    return (long)at;
  }
  return -1;
}

// One write(2), no buffer: a buffer would be rolled back with what it holds.
__attribute__((format(printf, 1, 2))) static inline void say(const char* format, ...) {
  char line[256];
  va_list args;
  va_start(args, format);
  int length = vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (length > (int)sizeof line - 1) length = sizeof line - 1;
  if (write(STDOUT_FILENO, line, (size_t)length) < 0) _exit(9);
}

#define bad(...)      \
  do {                \
    say("bad: ");     \
    say(__VA_ARGS__); \
    say("\n");        \
    _exit(1);         \
  } while (0)

static inline void check(const char* what, const void* memory, size_t bytes, uint64_t seed) {
  long at = differs(memory, bytes, seed);
  if (at >= 0) bad("%s differs at byte %ld of %zu", what, at, bytes);
}

static inline double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#endif
