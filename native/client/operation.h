/* SPDX-License-Identifier: MIT */
/* operation.h: one save, recover or forget, from the request to the last byte. */
#ifndef CKPT_OPERATION_H
#define CKPT_OPERATION_H

#include "ebpf_ckpt.h"
#include "kept.h"

/* `type`: enum ckpt_wire_request_type. Options are checked and copied before anything else. 0 or an errno, with the text noted; the lock is held. */
int ckpt_perform(struct ckpt_kept *kept, uint32_t type, const struct ckpt_options *options);

#endif /* CKPT_OPERATION_H */
