/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* client.h: who is calling: is it somebody the daemon may serve, and is it still the process that armed? */
#ifndef CKPT_CLIENT_H
#define CKPT_CLIENT_H

#include "session.h"

/*
 * What an attacker could try, and where it ends. Other users' processes: their uid is not among the allowed. A setuid program, to have its
 * memory saved or overwritten by whoever started it: suid, euid and fsuid must be allowed too, and it is not dumpable. A process that takes
 * on rights after it armed (execve() of such a program, setuid(), capabilities, another user namespace): the identity differs. One that
 * gives itself out as another: the key is made from what the kernel says, not from what it says.
 */

/* Set before the object is loaded: real uids, as the initial user namespace counts. */
const volatile __u32 allowed[CKPT_UIDS_MAX];
const volatile __u32 allowed_count;

/* Mapped into the daemon. */
struct ckpt_serve_globals globals;

#define PID_LEVELS 32u /* pid namespaces nest no deeper */

#define DUMPABLE_MASK 3u
#define DUMPABLE_USER 1u

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct mm_struct___word {
	unsigned long flags;
};

struct mm_flags {
};

struct mm_struct___bitmap {
	struct mm_flags flags;
};

struct task_exec_state {
	unsigned int count;
	enum task_dumpable {
		TASK_DUMPABLE_OFF,
	} dumpable;
};

struct task_struct___exec_state {
	struct task_exec_state *exec_state;
};

#pragma clang attribute pop

/*
 * The two low bits of mm->flags, a word up to 6.17; from 6.18 on it is a bitmap in a struct, whose first word begins with them all the
 * same. From 7.2 on it is a field of task->exec_state, with the same values.
 */
static __always_inline __u32 read_dumpable(struct task_struct *task, struct mm_struct *mm)
{
	struct task_struct___exec_state *with_state = (void *)task;
	struct mm_struct___bitmap *with_bitmap = (void *)mm;
	struct mm_struct___word *with_word = (void *)mm;
	unsigned long flags = 0;

	if (bpf_core_field_exists(with_state->exec_state))
		return BPF_CORE_READ(with_state, exec_state, dumpable);
	if (bpf_core_field_exists(with_word->flags))
		bpf_core_read(&flags, sizeof(flags), &with_word->flags);
	if (bpf_core_field_exists(with_bitmap->flags))
		bpf_core_read(&flags, sizeof(flags), &with_bitmap->flags);
	return flags & DUMPABLE_MASK;
}

/* What the calling thread is. A read that fails leaves 0, and 0 is never served: no mm, not dumpable. */
static __always_inline void read_identity(struct ckpt_identity *identity)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct cred *cred = BPF_CORE_READ(task, cred);
	struct mm_struct *mm = BPF_CORE_READ(task, mm);

	__builtin_memset(identity, 0, sizeof(*identity));
	identity->mm = (__u64)mm;
	identity->start_time = BPF_CORE_READ(task, group_leader, start_boottime);
	identity->exec_id = BPF_CORE_READ(task, self_exec_id);
	identity->user_ns = (__u64)BPF_CORE_READ(cred, user_ns);
	bpf_core_read(&identity->cap_permitted, sizeof(identity->cap_permitted), &cred->cap_permitted);
	bpf_core_read(&identity->cap_effective, sizeof(identity->cap_effective), &cred->cap_effective);
	identity->uid = BPF_CORE_READ(cred, uid.val);
	identity->gid = BPF_CORE_READ(cred, gid.val);
	identity->suid = BPF_CORE_READ(cred, suid.val);
	identity->sgid = BPF_CORE_READ(cred, sgid.val);
	identity->euid = BPF_CORE_READ(cred, euid.val);
	identity->egid = BPF_CORE_READ(cred, egid.val);
	identity->fsuid = BPF_CORE_READ(cred, fsuid.val);
	identity->fsgid = BPF_CORE_READ(cred, fsgid.val);
	identity->dumpable = read_dumpable(task, mm);
}

static __always_inline bool same_identity(const struct ckpt_identity *one, const struct ckpt_identity *other)
{
	const __u64 *a = (const void *)one, *b = (const void *)other;
	__u64 differ = 0;

	_Static_assert(sizeof(*one) % sizeof(*a) == 0, "compared by words");
#pragma unroll
	for (__u32 i = 0; i < sizeof(*one) / sizeof(*a); i++)
		differ |= a[i] ^ b[i];
	return !differ;
}

static __always_inline bool is_allowed(__u32 uid)
{
#pragma unroll
	for (__u32 i = 0; i < CKPT_UIDS_MAX; i++) {
		if (i >= allowed_count)
			break;
		if (allowed[i] == uid)
			return true;
	}
	return false;
}

/* The first question to every process on the machine, and the last to most: one helper, no memory of the process. */
static __always_inline bool uid_is_allowed(void)
{
	return is_allowed(bpf_get_current_uid_gid());
}

static __always_inline bool may_be_served(const struct ckpt_identity *identity)
{
	return identity->mm && identity->dumpable == DUMPABLE_USER && is_allowed(identity->uid) && is_allowed(identity->suid) &&
	       is_allowed(identity->euid) && is_allowed(identity->fsuid);
}

/* A struct pid as a namespace `level` deep counts it; 0 if `ns`, which is that deep, does not see it. */
static __always_inline __u32 number_of(struct pid *pid, __u32 level, __u64 ns)
{
	struct upid *number = (void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);

	if (level > BPF_CORE_READ(pid, level) || (__u64)BPF_CORE_READ(number, ns) != ns)
		return 0;
	return BPF_CORE_READ(number, nr);
}

/* The calling process, as the daemon's pid namespace counts; 0 if that does not see it, or if it is the daemon itself. */
static __always_inline __u32 visible_tgid(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (current_tgid() == globals.tgid)
		return 0;
	if (!globals.level)
		return current_tgid();
	return number_of(BPF_CORE_READ(task, group_leader, thread_pid), globals.level, globals.pid_ns);
}

/* The caller is the daemon: how it counts pids. Its tgid comes last, as that opens the door to clients. */
static __always_inline void learn_daemon(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	struct upid *number = (void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);

	if (level > PID_LEVELS)
		return;
	globals.level = level;
	globals.pid_ns = (__u64)BPF_CORE_READ(number, ns);
	WRITE_ONCE(globals.tgid, current_tgid());
}

#endif /* CKPT_CLIENT_H */
