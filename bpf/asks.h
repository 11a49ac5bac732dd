/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* asks.h: what a system call of somebody who may be a client asks the daemon's programs. Everybody else leaves here. */
#ifndef CKPT_ASKS_H
#define CKPT_ASKS_H

#include "client.h"
#include "path.h"

enum asks {
	ASKS_NOTHING,
	ASKS_UNREAD, /* its path is not in memory: who knows */
	ASKS_BARE,
	ASKS_TAGGED,
};

struct asked {
	__u32 phase; /* enum phase */
	__u32 op;
};

/* Completion files are named in CKPT_FOLDER; this is where the name without it begins. */
#define BASE(literal) ((literal) + sizeof(CKPT_FOLDER) - 1)

#define IS_BASE(path, length, literal) \
	((length) == sizeof(literal) - sizeof(CKPT_FOLDER) + 1 && same(path, BASE(literal), sizeof(literal) - sizeof(CKPT_FOLDER) + 1))

/* Who is asking, by the tag. Somebody else's tag is that of another session's triggers: not for us. */
static __always_inline enum asks who_asks(__u64 tag, struct asked *asked)
{
	if (!(tag & CKPT_TAG_OURS)) {
		asked->op = CKPT_OP_BARE;
		return ASKS_BARE;
	}
	asked->op = CKPT_TAG_OP(tag);
	return has_nonce(tag) && asked->op < CKPT_OPS ? ASKS_TAGGED : ASKS_NOTHING;
}

/* openat() of a marker. */
static __always_inline enum asks asks_to_arm(const struct sys_enter *ctx, struct asked *asked)
{
	__u64 path[CKPT_PATH_MAX / sizeof(__u64)] = {};
	enum asks who = who_asks(ctx->args[3], asked);
	long length;

	if (who == ASKS_NOTHING)
		return who;
	length = bpf_probe_read_user_str(path, sizeof(path), (void *)ctx->args[1]);
	if (length == -EFAULT)
		return who == ASKS_BARE ? ASKS_UNREAD : ASKS_NOTHING;
	asked->phase = STORE;
	if (IS_PATH(path, length, CKPT_READY_STORE))
		return who;
	if (who == ASKS_BARE && IS_PATH(path, length, CKPT_FOLDER CKPT_READY_STORE))
		return who;
	asked->phase = RESTORE;
	if (IS_PATH(path, length, CKPT_READY_RESTORE))
		return who;
	if (who == ASKS_BARE && IS_PATH(path, length, CKPT_FOLDER CKPT_READY_RESTORE))
		return who;
	return ASKS_NOTHING;
}

/*
 * access() of a completion file. A path that cannot be read is asked for again, as everybody waits in a loop. Whether there is an entry is
 * asked after the path: two look-ups, one a map, and a read of 32 bytes take the same 30 ns, and the path tells which map.
 */
static __always_inline enum asks asks_to_move(const struct sys_enter *ctx, struct asked *asked)
{
	__u64 path[CKPT_PATH_MAX / sizeof(__u64)] = {};
	enum asks who = who_asks(ctx->args[1], asked);
	long length;

	if (who == ASKS_NOTHING)
		return who;
	length = bpf_probe_read_user_str(path, sizeof(path), (void *)ctx->args[0]);
	asked->phase = STORE;
	if (IS_PATH(path, length, CKPT_COMPLETE_STORE))
		return who;
	if (who == ASKS_BARE && IS_BASE(path, length, CKPT_COMPLETE_STORE))
		return who;
	asked->phase = RESTORE;
	if (IS_PATH(path, length, CKPT_COMPLETE_RESTORE))
		return who;
	if (who == ASKS_BARE && IS_BASE(path, length, CKPT_COMPLETE_RESTORE))
		return who;
	return ASKS_NOTHING;
}

/* Before the daemon has said hello nobody is served; see request.h, whose hello it is. */
static __always_inline bool is_hello(const struct sys_enter *ctx)
{
	__u64 path[CKPT_PATH_MAX / sizeof(__u64)] = {};
	long length;

	if (!has_nonce(ctx->args[3]))
		return false;
	length = bpf_probe_read_user_str(path, sizeof(path), (void *)ctx->args[1]);
	return IS_PATH(path, length, CKPT_HELLO);
}

#endif /* CKPT_ASKS_H */
