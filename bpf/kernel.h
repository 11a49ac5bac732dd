/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* kernel.h: the kernel types and constants that the BPF objects use, and no more; CO-RE finds the fields on the running kernel. */
#ifndef CKPT_KERNEL_H
#define CKPT_KERNEL_H

#include <stdbool.h>

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed int __s32;
typedef signed long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_HASH_OF_MAPS = 13,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_F_INNER_MAP = 1 << 12,
};

enum {
	BPF_ANY = 0,
	BPF_EXIST = 2,
};

enum {
	BPF_RB_AVAIL_DATA = 0,
};

#define ENOENT 2
#define ENOMEM 12
#define EFAULT 14
#define EBUSY  16
#define EINVAL 22

#define SIGSTOP 19

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* One read, whatever the other side of a shared map does meanwhile. */
#define READ_ONCE(x)	     (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

/* What a program on a sys_enter tracepoint gets. Not CO-RE: the kernel builds it for BPF in a struct of its own. */
struct sys_enter {
	__u64 entry;
	__s64 id;
	__u64 args[6];
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	void *vm_file;
	void *anon_vma;
};

struct mm_struct {
	int map_count;
	unsigned long start_brk;
	unsigned long brk;
	unsigned long start_stack;
};

struct upid {
	int nr;
	void *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

/* Two words up to 6.2, one from 6.3 on: the same 8 bytes on a little-endian machine. */
typedef struct {
} kernel_cap_t;

struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t suid;
	kgid_t sgid;
	kuid_t euid;
	kgid_t egid;
	kuid_t fsuid;
	kgid_t fsgid;
	kernel_cap_t cap_permitted;
	kernel_cap_t cap_effective;
	void *user_ns;
};

struct task_struct {
	struct mm_struct *mm;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	const struct cred *cred;
	__u64 start_boottime;
	__u64 self_exec_id;
};

#pragma clang attribute pop

#endif /* CKPT_KERNEL_H */
