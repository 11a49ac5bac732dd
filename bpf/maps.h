/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* maps.h: what ckpt.bpf.c and seed.bpf.c share: store_map and restore_map with their entries, and the globals. */
#ifndef CKPT_MAPS_H
#define CKPT_MAPS_H

#include "session.h"

/*
 * Room for the header of every operation and for two walks of the longest kind at once. Elements are allocated as they come; where
 * the kernel wants tracing programs to use preallocated maps (before 6.1), user space takes the flag and most of the room away.
 */
#define ENTRIES (CKPT_OPS + 2 * CKPT_CHUNKS)

struct entry_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ENTRIES);
	__type(key, struct ckpt_key);
	__type(value, struct ckpt_entry);
};

struct entry_map store_map SEC(".maps");
struct entry_map restore_map SEC(".maps");

/* Mapped into user space. */
struct ckpt_globals globals;

/* What a new entry starts from: too large for the stack. */
static const struct ckpt_entry blank;

/* A chunk of an operation of the current process. */
static __always_inline struct ckpt_entry *find_chunk(__u32 phase, __u32 op, __u32 chunk)
{
	struct ckpt_key key = {.tgid = current_tgid(), .op = op, .chunk = chunk};

	if (phase == STORE)
		return bpf_map_lookup_elem(&store_map, &key);
	return bpf_map_lookup_elem(&restore_map, &key);
}

/* The same, made if there is none. Null, and why in *error, if it cannot be made. */
static __always_inline struct ckpt_entry *make_chunk(__u32 phase, __u32 op, __u32 chunk, long *error)
{
	struct ckpt_key key = {.tgid = current_tgid(), .op = op, .chunk = chunk};
	struct ckpt_entry *entry = find_chunk(phase, op, chunk);

	if (entry)
		return entry;
	if (phase == STORE)
		*error = bpf_map_update_elem(&store_map, &key, &blank, BPF_ANY);
	else
		*error = bpf_map_update_elem(&restore_map, &key, &blank, BPF_ANY);
	return *error ? 0 : find_chunk(phase, op, chunk);
}

/* The header of an operation under way in this very address space: after execve() it is not ours any more. */
static __always_inline struct ckpt_entry *find_entry(__u32 phase, __u32 op)
{
	struct ckpt_entry *header = find_chunk(phase, op, 0);

	if (!header || header->mm != (__u64)current_mm())
		return 0;
	return header;
}

#endif /* CKPT_MAPS_H */
