/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/*
 * serve.bpf.c: the daemon's object, in the fast layout. It recognises clients, binds their entries to what they are, holds bare ones, and
 * moves their memory as they trigger. What is decided about who may be served is decided before anything is stored.
 */
#include "kernel.h"
#include "serve_abi.h"
#include "session.h"
#include "client.h"
#include "asks.h"
#include "entries.h"
#include "claim.h"
#include "move.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* A client at a marker or at a trigger. */
struct call {
	struct asked asked;
	bool bare;
	bool trigger; /* access(), else openat() */
	struct ckpt_key key;
	struct ckpt_identity mine; /* what it is now */
	struct ckpt_client client; /* its entry */
};

/* Fills in who is calling and what is known of it. */
static __always_inline bool find_caller(struct call *call, enum asks who)
{
	call->bare = who == ASKS_BARE;
	call->key = (struct ckpt_key){.tgid = visible_tgid(), .op = call->asked.op};
	return call->key.tgid;
}

/* Holds the process before its system call ends. */
static __always_inline void hold(void)
{
	bpf_send_signal(SIGSTOP);
}

/* Binds the entry to what the client is now, holds a bare one, and tells the daemon. */
static __always_inline void arm(struct call *call, __u64 flags)
{
	call->client.identity = call->mine;
	call->client.state = CKPT_CLIENT_ARMED;
	call->client.stale = 0;
	call->client.arms++;
	if (write_client(call->asked.phase, &call->key, &call->client, flags)) {
		if (flags == BPF_ANY)
			__sync_fetch_and_add(&globals.full, 1);
		return;
	}
	if (call->bare)
		hold();
	send_event(CKPT_EVENT_ARMED, call->asked.phase, &call->key, call->client.arms, call->trigger, call->bare);
}

/* The same for a bare client, whatever is there: only the count of its arms goes on. */
static __always_inline void arm_anew(struct call *call, bool known)
{
	__u32 arms = known ? call->client.arms : 0;

	__builtin_memset(&call->client, 0, sizeof(call->client));
	call->client.arms = arms;
	arm(call, BPF_ANY);
}

/* A bare client's marker while its operation is under way. A marker that is opened a million times costs nobody anything. */
static __always_inline void arm_again(struct call *call)
{
	struct ckpt_queue *queue = find_queue(call->client.extent % CKPT_OPS);

	if (!queue || READ_ONCE(queue->state) != CKPT_QUEUE_OPEN) {
		arm_anew(call, true);
		return;
	}
	if (call->client.stale)
		return;
	call->client.stale = 1;
	/* the daemon was through with it in this very moment: it is a marker like the first */
	if (write_client(call->asked.phase, &call->key, &call->client, BPF_EXIST))
		arm_anew(call, true);
}

static __always_inline void on_bare_marker(struct call *call, bool known)
{
	/* the daemon has seen a marker already, and waits for the first trigger */
	if (known && call->client.state == CKPT_CLIENT_EXPECTED)
		return;
	/* an entry of what the process was before says nothing about this marker */
	if (!known || !same_identity(&call->client.identity, &call->mine)) {
		arm_anew(call, known);
		return;
	}
	/* whoever is held is told of, each time: else nobody would let it go */
	if (call->client.state == CKPT_CLIENT_MOVING)
		arm_again(call);
	else
		arm_anew(call, true);
}

SEC("?tp/syscalls/sys_enter_openat")
int serve_openat(struct sys_enter *ctx)
{
	struct call call;
	enum asks who;
	bool known;

	/* nobody is served before the daemon has said who it is */
	if (!READ_ONCE(globals.tgid)) {
		if (is_hello(ctx))
			learn_daemon();
		return 0;
	}

	/* ignore users who are not served, and whoever is not at a marker */
	if (!uid_is_allowed())
		return 0;
	who = asks_to_arm(ctx, &call.asked);
	if (who == ASKS_NOTHING || !find_caller(&call, who))
		return 0;
	call.trigger = false;
	if (who == ASKS_UNREAD) {
		send_unread(call.key.tgid, ctx->args[1], &call.client);
		return 0;
	}

	/* who may not be served leaves no trace */
	read_identity(&call.mine);
	if (!may_be_served(&call.mine))
		return 0;

	/* a library's entry was made by the daemon, a bare client's is made here */
	known = read_client(call.asked.phase, &call.key, &call.client);
	if (call.bare)
		on_bare_marker(&call, known);
	else if (known && call.client.state == CKPT_CLIENT_EXPECTED)
		arm(&call, BPF_EXIST);
	return 0;
}

/* Its process is not the one that armed: that is the end of it, and is said once. */
static __always_inline void end(struct call *call)
{
	call->client.state = CKPT_CLIENT_ENDED;
	if (!write_client(call->asked.phase, &call->key, &call->client, BPF_EXIST))
		send_event(CKPT_EVENT_ENDED, call->asked.phase, &call->key, call->client.arms, call->trigger, false);
}

/* Moves the next pieces of a queue. What is to be told is in *kind; true: the daemon has bytes to move, the client waits. */
static __always_inline bool move_next(struct call *call, struct ckpt_queue *queue, __u32 *kind, bool fetch)
{
	__u32 flags = call->client.flags, yours = flags & CKPT_CLIENT_YOURS;
	struct claim claim;
	__u32 failed;

	/* the completion file is there, and its client looks for it: it will find it */
	if (READ_ONCE(queue->state) == CKPT_QUEUE_FINISHED) {
		WRITE_ONCE(queue->state, CKPT_QUEUE_SEEN);
		return false;
	}
	if (READ_ONCE(queue->state) != CKPT_QUEUE_OPEN)
		return false;

	/* take the next pieces */
	claim = claim_pieces(queue, fetch);
	if (!claim.count)
		return false;

	/* move them, and say so */
	failed = move_pieces(call->client.extent, call->asked.phase, yours, claim.first, claim.count);
	if (failed)
		__sync_fetch_and_add(&queue->failed, failed);
	release_pieces(queue, claim.count, fetch);
	if (flags & (CKPT_CLIENT_REPORT | CKPT_CLIENT_HOLD) || READ_ONCE(queue->done) >= READ_ONCE(queue->count))
		*kind = CKPT_EVENT_MOVED;
	return flags & CKPT_CLIENT_HOLD && is_left(call->asked.phase, yours) && failed < claim.count;
}

static __always_inline void move_client(struct call *call, bool fetch)
{
	struct ckpt_extent *extent = enter_extent(&call->client, call->asked.phase, call->key.op, &call->mine, fetch);
	struct ckpt_queue *queue;
	bool waits = false;
	__u32 kind = 0;

	if (!extent)
		return;
	queue = find_queue(call->client.extent % CKPT_OPS);
	if (queue)
		waits = move_next(call, queue, &kind, fetch);
	leave_extent(extent, fetch);

	if (waits)
		hold();
	if (kind)
		send_event(kind, call->asked.phase, &call->key, call->client.arms, call->trigger, waits);
}

static __always_inline int on_access(const struct sys_enter *ctx, bool fetch)
{
	struct call call;
	enum asks who;

	/* ignore everybody before the hello, users who are not served, and whoever is not at a trigger */
	if (!READ_ONCE(globals.tgid) || !uid_is_allowed())
		return 0;
	who = asks_to_move(ctx, &call.asked);
	if (who == ASKS_NOTHING || !find_caller(&call, who))
		return 0;

	call.trigger = true;

	/* and operations that are not under way */
	if (!read_client(call.asked.phase, &call.key, &call.client)) {
		if (call.bare)
			hold_unread(call.asked.phase, call.key.tgid);
		return 0;
	}
	if (call.client.state == CKPT_CLIENT_ENDED)
		return 0;
	read_identity(&call.mine);

	/* the daemon missed its marker, and looks for it here: it counts as one */
	if (call.client.state == CKPT_CLIENT_EXPECTED) {
		if (call.bare && may_be_served(&call.mine))
			arm(&call, BPF_EXIST);
		return 0;
	}

	/* it has to be the process that armed, with the same rights */
	if (!same_identity(&call.client.identity, &call.mine)) {
		end(&call);
		return 0;
	}
	if (call.client.state != CKPT_CLIENT_MOVING)
		return 0;
	if (call.client.stale)
		arm_anew(&call, true);
	else
		move_client(&call, fetch);
	return 0;
}

/* One of the two is loaded, as the kernel allows: see claim.h. */
SEC("?tp/syscalls/sys_enter_access")
int serve_access_fetch(struct sys_enter *ctx)
{
	return on_access(ctx, true);
}

SEC("?tp/syscalls/sys_enter_access")
int serve_access_lock(struct sys_enter *ctx)
{
	return on_access(ctx, false);
}
