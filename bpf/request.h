/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* request.h: is this system call meant for us, and what does it ask? Everybody else leaves here. */
#ifndef CKPT_REQUEST_H
#define CKPT_REQUEST_H

#include "path.h"

struct request {
	__u32 phase; /* enum phase */
	__u32 op;
	bool walk;  /* the VMAs are to be recorded too */
	bool yours; /* user space writes what is restored */
};

/*
 * Who may be served: the process that loaded this object, and only by system calls that carry its nonce. A stranger who guesses the
 * nonce still has another tgid; he would have to guess it in the instant between attaching and our hello, before there is a tgid. The
 * cheapest question comes first: every process on the machine pays for it.
 */
static __always_inline bool may_be_served(__u64 tag)
{
	if (!READ_ONCE(globals.armed))
		return false;
	if (!has_nonce(tag) || CKPT_TAG_OP(tag) >= CKPT_OPS)
		return false;
	return globals.tgid == current_tgid() || !globals.tgid;
}

/* openat() of a marker: fills the request. The hello that precedes all others is answered on the spot. */
static __always_inline bool asks_to_arm(const struct sys_enter *ctx, struct request *request)
{
	__u64 tag = ctx->args[3];
	__u64 path[CKPT_PATH_MAX / sizeof(__u64)] = {};
	long length;

	if (!may_be_served(tag))
		return false;

	length = bpf_probe_read_user_str(path, sizeof(path), (void *)ctx->args[1]);
	if (!globals.tgid) {
		if (IS_PATH(path, length, CKPT_HELLO))
			globals.tgid = current_tgid();
		return false;
	}

	if (IS_PATH(path, length, CKPT_READY_STORE))
		request->phase = STORE;
	else if (IS_PATH(path, length, CKPT_READY_RESTORE))
		request->phase = RESTORE;
	else
		return false;
	request->op = CKPT_TAG_OP(tag);
	request->walk = tag & CKPT_TAG_WALK;
	request->yours = false;
	return true;
}

/* access() of a completion file: fills the request. */
static __always_inline bool asks_to_move(const struct sys_enter *ctx, struct request *request)
{
	__u64 tag = ctx->args[1];
	__u64 path[CKPT_PATH_MAX / sizeof(__u64)] = {};
	long length;

	if (!may_be_served(tag) || !globals.tgid)
		return false;

	length = bpf_probe_read_user_str(path, sizeof(path), (void *)ctx->args[0]);
	if (IS_PATH(path, length, CKPT_COMPLETE_STORE))
		request->phase = STORE;
	else if (IS_PATH(path, length, CKPT_COMPLETE_RESTORE))
		request->phase = RESTORE;
	else
		return false;
	request->op = CKPT_TAG_OP(tag);
	request->walk = false;
	request->yours = tag & CKPT_TAG_YOURS;
	return true;
}

#endif /* CKPT_REQUEST_H */
