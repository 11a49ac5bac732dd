// secret.h: memory that is recognised wherever it turns up.
#ifndef SECRET_H
#define SECRET_H

#include "../bare/bytes.h"

#define SECRET 'S'

static inline int secrets(const char* memory, size_t bytes) {
  int pages = 0;
  for (size_t at = 0; at < bytes; at += 4096) {
    size_t same = 0;
    while (same < 64 && memory[at + same] == SECRET) same++;
    pages += same == 64;
  }
  return pages;
}

#endif
