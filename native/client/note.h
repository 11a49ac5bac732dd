/* SPDX-License-Identifier: MIT */
/* note.h: why the last call of each thread failed. */
#ifndef CKPT_NOTE_H
#define CKPT_NOTE_H

#include "kept.h"

/* Notes a sentence for the calling thread, which holds the lock; returns `error`. Knows %s and %u. */
__attribute__((format(printf, 3, 4))) int ckpt_fail(struct ckpt_kept *kept, int error, const char *format, ...);

/* Notes that there is none. */
void ckpt_succeed(struct ckpt_kept *kept);

/* The sentence of the calling thread, "" if there is none. Needs no lock. */
const char *ckpt_find_note(struct ckpt_kept *kept);

#endif /* CKPT_NOTE_H */
