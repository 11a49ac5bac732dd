/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* session.h: what every object has: the settings user space makes before it is loaded, and who is calling. */
#ifndef CKPT_SESSION_H
#define CKPT_SESSION_H

/* Which way an operation goes. */
enum phase {
	STORE,
	RESTORE,
};

/* Set before the object is loaded. */
const volatile __u32 nonce;
const volatile __u32 kernel_writer; /* 0: bpf_probe_write_user is dead code that the verifier never sees */

static __always_inline __u32 current_tgid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

static __always_inline struct mm_struct *current_mm(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, mm);
}

/* Whether a tag is one that user space made for this load. */
static __always_inline bool has_nonce(__u64 tag)
{
	return (tag & CKPT_TAG_OURS) && CKPT_TAG_NONCE(tag) == nonce;
}

#endif /* CKPT_SESSION_H */
