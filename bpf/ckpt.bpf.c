/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* ckpt.bpf.c: the fast layout. Pieces move straight between a process and the segments of its page store, no bounce buffer between. */
#include "kernel.h"
#include "abi.h"
#include "maps.h"
#include "request.h"
#include "arm.h"
#include "claim.h"
#include "move.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

static __always_inline int on_openat(const struct sys_enter *ctx, bool iterator)
{
	struct request request;
	struct ckpt_queue *queue;

	/* ignore whoever is not our process at a marker */
	if (!asks_to_arm(ctx, &request) || !arm(&request, iterator))
		return 0;

	/* last, so that user space finds the entry complete once it sees this */
	queue = find_queue(request.op);
	if (queue)
		__sync_fetch_and_add(&queue->armed, 1);
	return 0;
}

static __always_inline int on_access(const struct sys_enter *ctx, bool fetch)
{
	struct ckpt_queue *queue;
	struct request request;
	struct claim claim;
	__u32 failed;

	/* ignore whoever is not our process at a trigger, and operations that are not under way */
	if (!asks_to_move(ctx, &request) || !find_entry(request.phase, request.op))
		return 0;
	queue = find_queue(request.op);
	if (!queue)
		return 0;

	/* take the next pieces */
	claim = claim_pieces(queue, fetch);
	if (!claim.count)
		return 0;

	/* move them, and say so */
	failed = move_pieces(request.op, request.phase, request.yours, claim.first, claim.count);
	if (failed)
		__sync_fetch_and_add(&queue->failed, failed);
	release_pieces(queue, claim.count, fetch);
	return 0;
}

/* One of each pair is loaded, as the kernel allows: see walk.h and claim.h. */
SEC("?tp/syscalls/sys_enter_openat")
int ckpt_arm_iter(struct sys_enter *ctx)
{
	return on_openat(ctx, true);
}

SEC("?tp/syscalls/sys_enter_openat")
int ckpt_arm_list(struct sys_enter *ctx)
{
	return on_openat(ctx, false);
}

SEC("?tp/syscalls/sys_enter_access")
int ckpt_move_fetch(struct sys_enter *ctx)
{
	return on_access(ctx, true);
}

SEC("?tp/syscalls/sys_enter_access")
int ckpt_move_lock(struct sys_enter *ctx)
{
	return on_access(ctx, false);
}
