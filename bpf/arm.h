/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* arm.h: making the entry of an operation, with the mappings if they are wanted. */
#ifndef CKPT_ARM_H
#define CKPT_ARM_H

#include "walk.h"

/*
 * Makes the header of an operation or takes over the one there is, and binds it to the caller's address space. A walk that stopped for
 * want of room or steps goes on where it was; anything else begins anew. Null if there is no room for it.
 */
static __always_inline struct ckpt_entry *make_header(const struct request *request)
{
	struct mm_struct *mm = current_mm();
	struct ckpt_entry *header;
	long error;

	header = make_chunk(request->phase, request->op, 0, &error);
	if (!header)
		return 0;

	if (!request->walk || header->walk != CKPT_WALK_MORE || header->mm != (__u64)mm) {
		header->next_addr = 0;
		header->mappings = 0;
		header->walk = CKPT_WALK_NONE;
	}
	header->task = bpf_get_current_task();
	header->mm = (__u64)mm;
	header->start_brk = BPF_CORE_READ(mm, start_brk);
	header->brk = BPF_CORE_READ(mm, brk);
	header->start_stack = BPF_CORE_READ(mm, start_stack);
	header->map_count = BPF_CORE_READ(mm, map_count);
	return header;
}

/* Makes the entry, with the VMAs if they are wanted. False if there is no room: nothing was done, and user space sees just that. */
static __always_inline bool arm(const struct request *request, bool iterator)
{
	struct ckpt_entry *header = make_header(request);

	if (!header)
		return false;
	if (request->walk && iterator)
		walk_by_iterator(request, header);
	else if (request->walk)
		walk_by_list(request, header);
	return true;
}

#endif /* CKPT_ARM_H */
