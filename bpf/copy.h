/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* copy.h: any number of bytes at any offset, between the current process and an element of a map. */
#ifndef CKPT_COPY_H
#define CKPT_COPY_H

enum direction {
	FROM_PROCESS,
	TO_PROCESS,
};

/* What the helper says; it never faults a page in. A failed read leaves zeros, a failed write the bytes before the bad page. */
static __always_inline long copy_exactly(void *element, __u64 addr, __u32 size, enum direction direction)
{
	if (direction == TO_PROCESS)
		return bpf_probe_write_user((void *)addr, element, size);
	return bpf_probe_read_user(element, size, (void *)addr);
}

/* `most` is a power of two. ((length - 1) & (most - 1)) + 1 is the length, and within 1 .. most for every verifier to see. */
#define COPY_AT_ONCE(most)                                                          \
	if (length <= (most) && offset <= element_size - (most)) {                  \
		__u64 from = offset, size = length - 1;                             \
                                                                                    \
		barrier_var(from);                                                  \
		barrier_var(size);                                                  \
		size = (size & ((most)-1)) + 1;                                     \
		if (from <= element_size - (most))                                  \
			return copy_exactly(element + from, addr, size, direction); \
	}

/*
 * Copies 1 .. CKPT_PIECE_MAX bytes between `addr` and `offset` of an element; 0, -EINVAL if they do not fit, or what the helper said.
 *
 * A verifier relates no two variables: that offset + length stays within the element is nothing it can see. So each alone is shown
 * bounds, in two ways. First, one call of variable length, wherever the largest length of a size class would still fit. Else, near the
 * element's end, one call of constant size for each bit set in the length, its offset computed from the originals each time: a
 * carried `offset += size` would give the verifier a new state for every subset of bits. Whole pages and the largest pieces take the
 * first way wherever they lie, and what is page-aligned needs few calls of the second.
 */
static __always_inline long copy(void *element, const __u32 element_size, __u64 offset, __u64 length, __u64 addr, enum direction direction)
{
	COPY_AT_ONCE(CKPT_PAGE);
	if (element_size > CKPT_PAGE) {
		COPY_AT_ONCE(64u << 10);
		COPY_AT_ONCE(CKPT_PIECE_MAX);
	}

#pragma unroll
	for (int bit = 20; bit >= 0; bit--) {
		const __u32 size = 1u << bit;
		__u64 before = length & ~(2ull * size - 1), from = offset + before;
		long error;

		if (size > element_size || !(length & size))
			continue;
		barrier_var(from);
		if (from > element_size - size)
			return -EINVAL;
		error = copy_exactly(element + from, addr + before, size, direction);
		if (error)
			return error;
	}
	return 0;
}

#undef COPY_AT_ONCE

#endif /* CKPT_COPY_H */
