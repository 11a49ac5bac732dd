/* SPDX-License-Identifier: MIT */
/*
 * kept.h: all that the library remembers, in memory that is not rolled back.
 *
 * It lies in a private anonymous mapping of its own, named in `keep` of each SAVE. The pointer to it is set before the first SAVE and never again,
 * so that the value that a recover brings back is the same.
 *
 * A child made by fork() has a copy of it, which says so: the last part of the mapping, with `life`, reads as zeros there (MADV_WIPEONFORK).
 * Process ids would not tell: parent and child may have the same one, each in its pid namespace.
 */
#ifndef CKPT_KEPT_H
#define CKPT_KEPT_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

#define CKPT_NOTES     64u
#define CKPT_NOTE_TEXT (CKPT_TEXT_MAX + 8u)

/* Why the last call of a thread failed. */
struct ckpt_note {
	uint32_t tid;	/* 0: free */
	uint32_t stamp; /* the lowest one makes room when all are taken */
	char text[CKPT_NOTE_TEXT];
};

struct ckpt_kept {
	uint32_t lock; /* tid of its holder, 0: free; the highest bit: somebody waits */
	uint32_t pid;
	bool half; /* a recover ended without a word of the daemon, in the middle: memory is neither old nor new */

	bool connected;
	int socket;
	uint64_t cookie; /* of the socket: tells it from another one at the same number, if the program closes what is not its own */
	char path[108];	 /* where it is connected to */

	uint32_t serial; /* of the last request */
	struct ckpt_wire_request request;
	struct ckpt_wire_reply reply;

	/* By phase: 0 save, 1 recover. Here because BPF reads only memory that is present: what is written here, is. */
	char marker[2][32];
	char complete[2][32];

	uint32_t stamp;
	struct ckpt_note notes[CKPT_NOTES];
};

/* Finds or makes it, and takes the lock. 0 or an errno; the text is noted. */
int ckpt_enter(struct ckpt_kept **kept);
void ckpt_leave(struct ckpt_kept *kept);

/* The range to be kept. */
struct ckpt_wire_range ckpt_kept_range(const struct ckpt_kept *kept);

/* For ckpt_strerror(): the text of the calling thread. */
const char *ckpt_noted(void);

#endif /* CKPT_KEPT_H */
