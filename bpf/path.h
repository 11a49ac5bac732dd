/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* path.h: comparing what a system call names with the names of the protocol. */
#ifndef CKPT_PATH_H
#define CKPT_PATH_H

/* Exactly these bytes: by words, as this is asked at every trigger; the machines we run on are little-endian. */
static __always_inline bool same(const __u64 *path, const char *literal, const __u32 size)
{
	__u64 differ = 0;

#pragma unroll
	for (__u32 i = 0; i < size; i += sizeof(__u64)) {
		__u32 bytes = size - i < sizeof(__u64) ? size - i : sizeof(__u64);
		__u64 want = 0;

		__builtin_memcpy(&want, literal + i, bytes);
		differ |= (path[i / sizeof(__u64)] & (~0ull >> (64 - 8 * bytes))) ^ want;
	}
	return !differ;
}

#define IS_PATH(path, length, literal) ((length) == sizeof(literal) && same(path, literal, sizeof(literal)))

#endif /* CKPT_PATH_H */
