/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* move.h: the fast layout's data_map and copy_map, and moving the pieces of a queue between the two and the current process. */
#ifndef CKPT_MOVE_H
#define CKPT_MOVE_H

#include "session.h"
#include "copy.h"

/* 4a8f87e60f6d ("bpf: Allow for map-in-map with dynamic inner array map entries"), 5.10, lets segments differ in size. */
struct segment {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, CKPT_VALUE);
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, CKPT_SLOTS);
	__type(key, __u32);
	__array(values, struct segment);
} data_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, CKPT_COPY_ELEMENTS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct ckpt_piece));
} copy_map SEC(".maps");

static __always_inline struct ckpt_queue *find_queue(__u32 op)
{
	__u32 at = op * CKPT_EXTENT;

	return bpf_map_lookup_elem(&copy_map, &at);
}

static __always_inline void *find_element(__u32 slot, __u32 index)
{
	void *segment = bpf_map_lookup_elem(&data_map, &slot);

	return segment ? bpf_map_lookup_elem(segment, &index) : 0;
}

/* Whether the bytes are left to user space. `yours`: it wants them, even where the kernel may write. */
static __always_inline bool is_left(__u32 phase, __u32 yours)
{
	return phase != STORE && (!kernel_writer || yours);
}

/* Moves one piece; its new state, the error beside it. User space shares the piece, so each field is read once. */
static __always_inline __u32 move(struct ckpt_piece *piece, __u32 phase, __u32 yours, long *error)
{
	__u64 addr = READ_ONCE(piece->addr);
	__u32 slot = READ_ONCE(piece->slot), length = READ_ONCE(piece->length), place = READ_ONCE(piece->offset);
	__u32 offset = place % CKPT_VALUE;
	void *element;

	/* what makes no sense is said, never skipped: a piece that nobody moves is a loop without end */
	*error = -EINVAL;
	if (!length || length > CKPT_PIECE_MAX || length > CKPT_VALUE - offset)
		return CKPT_PIECE_BAD;
	*error = -ENOENT;
	element = find_element(slot, place / CKPT_VALUE);
	if (!element)
		return CKPT_PIECE_BAD;

	*error = 0;
	if (phase == STORE)
		*error = copy(element, CKPT_VALUE, offset, length, addr, FROM_PROCESS);
	else if (is_left(phase, yours))
		return CKPT_PIECE_YOURS;
	else
		*error = copy(element, CKPT_VALUE, offset, length, addr, TO_PROCESS);
	if (*error)
		return *error == -EINVAL ? CKPT_PIECE_BAD : CKPT_PIECE_FAULT;
	return CKPT_PIECE_DONE;
}

/* Returns 1 if the piece failed. Global, like the loop below, so that each is verified once: 5.10 takes scalars only. */
__noinline int move_piece(__u32 at, __u32 phase, __u32 yours)
{
	struct ckpt_piece *piece = bpf_map_lookup_elem(&copy_map, &at);
	__u32 state;
	long error;

	if (!piece)
		return 1;
	state = move(piece, phase, yours, &error);
	piece->error = error;
	WRITE_ONCE(piece->state, state);
	return state != CKPT_PIECE_DONE && state != CKPT_PIECE_YOURS;
}

/* Returns how many failed. */
__noinline int move_pieces(__u32 op, __u32 phase, __u32 yours, __u32 first, __u32 count)
{
	__u32 at = op * CKPT_EXTENT + 1 + first;
	__u32 failed = 0;

	for (__u32 i = 0; i < CKPT_BUDGET_MAX; i++) {
		if (i >= count)
			break;
		failed += move_piece(at + i, phase, yours);
	}
	return failed;
}

#endif /* CKPT_MOVE_H */
