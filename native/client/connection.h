/* SPDX-License-Identifier: MIT */
/* connection.h: the one connection of this process to the daemon: made at first use, closed when it breaks. */
#ifndef CKPT_CONNECTION_H
#define CKPT_CONNECTION_H

#include "kept.h"

/* All return 0 or an errno, with the text noted; the lock is held. */

/* Connects, unless that was done. */
int ckpt_connect(struct ckpt_kept *kept);

/* Sends kept->request. */
int ckpt_send(struct ckpt_kept *kept);

/* Waits up to `ns` for a message, into kept->reply; *got tells whether one came. It has the right size, a known type and a terminated text. */
int ckpt_receive(struct ckpt_kept *kept, uint64_t ns, bool *got);

/* Closes it. The daemon frees all that it holds for us. */
void ckpt_disconnect(struct ckpt_kept *kept);

/* In a child made by fork(): closes the parent's connection without a word. */
void ckpt_drop_inherited(struct ckpt_kept *kept);

#endif /* CKPT_CONNECTION_H */
