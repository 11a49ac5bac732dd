/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* abi.h: what the BPF objects and the native side share: markers, tags, keys and map values. */
#ifndef CKPT_ABI_H
#define CKPT_ABI_H

/*
 * Includers bring __u32, __s32 and __u64: <linux/types.h> in user space, kernel.h in BPF.
 *
 * Words. An operation is one checkpoint or one restore under way; its number `op` is below CKPT_OPS. A segment is
 * an inner map of data_map, known by its slot. A piece is what one read or write moves.
 */

/* The files of the protocol. Compared exactly, with the terminating zero. */
#define CKPT_READY_STORE      "ready_to_checkpoint"
#define CKPT_READY_RESTORE    "ready_to_restore"
#define CKPT_COMPLETE_STORE   "/tmp/checkpoint_complete"
#define CKPT_COMPLETE_RESTORE "/tmp/restore_complete"
#define CKPT_HELLO	      "ebpf_ckpt_hello"
#define CKPT_PATH_MAX	      32u /* bytes that hold any of them */

/*
 * The tag that our own openat() and access() carry in their mode argument, a register the kernel truncates to 32 bits
 * but a tracepoint sees whole:
 *
 *	63..32	nonce, random for each load, so that another session's triggers are not taken for ours
 *	31	set: access() returns EINVAL before it looks the path up (openat() is called with a directory
 *		descriptor that cannot exist, and returns EBADF)
 *	30..16	flags, CKPT_TAG_...
 *	15..0	operation
 */
#define CKPT_TAG_OURS		   (1ull << 31)
#define CKPT_TAG_WALK		   (1ull << 16) /* openat: record the VMAs too */
#define CKPT_TAG_YOURS		   (1ull << 17) /* access: leave a restore's bytes to user space even where the kernel may write */
#define CKPT_TAG(nonce, flags, op) (((__u64)(nonce) << 32) | CKPT_TAG_OURS | (flags) | (__u64)(op))
#define CKPT_TAG_OP(tag)	   ((__u32)((tag)&0xffff))
#define CKPT_TAG_NONCE(tag)	   ((__u32)((__u64)(tag) >> 32))

#define CKPT_OPS 64u /* operations under way at once in one session */

/*
 * store_map and restore_map: hash, ckpt_key -> ckpt_entry. Chunk 0 of an operation is its header and the first mappings;
 * a long list of mappings goes on in chunks 1, 2, ... of the same operation, whose header fields are unused.
 */
struct ckpt_key {
	__u32 tgid; /* as the initial pid namespace counts */
	__u32 op;
	__u32 chunk;
	__u32 pad;
};

enum ckpt_kind {
	CKPT_KIND_FILE = 1, /* vm_file is set (shared anonymous memory has one too) */
	CKPT_KIND_ANON = 2, /* anon_vma is set: private pages were made here */
};

struct ckpt_mapping {
	__u64 start, end; /* bytes, end exclusive. In the seed layout's plan: one run, any alignment */
	__u64 pgoff;	  /* pages */
	__u32 flags;	  /* low 32 bits of vm_flags: 1 read, 2 write, 4 exec, 8 shared */
	__u32 kind;	  /* enum ckpt_kind */
};

enum ckpt_walk {
	CKPT_WALK_NONE,	 /* not asked for, no walk on this kernel, or no room for so many: user space looks for itself */
	CKPT_WALK_DONE,	 /* every VMA of the task is recorded, and mappings == map_count */
	CKPT_WALK_MORE,	 /* ran out of chunks or of steps: open the marker again, it goes on at next_addr */
	CKPT_WALK_BUSY,	 /* mmap_lock was taken, or the layout changed meanwhile: nothing is known, open the marker again */
	CKPT_WALK_FAULT, /* a VMA could not be read: nothing is known */
};

#define CKPT_CHUNK_MAPPINGS 120u /* keeps a hash element of ours under 4 KiB, the largest kmalloc cache BPF's allocator has */
#define CKPT_CHUNKS	    552u /* of an operation: 66,240 mappings, more than the 65,530 a process may have */

struct ckpt_entry {
	__u64 task, mm; /* kernel addresses, compared and never followed by user space */
	__u64 start_brk, brk, start_stack;
	__u64 next_addr; /* where a walk that stopped goes on */
	__u32 walk;	 /* enum ckpt_walk */
	__u32 mappings;	 /* recorded so far, in all chunks */
	__u32 map_count; /* what the mm says it has */
	__u32 pad[5];
	struct ckpt_mapping mapping[CKPT_CHUNK_MAPPINGS];
};

/*
 * Fast layout. data_map: hash of maps, slot -> segment; a segment is an mmapable array of CKPT_VALUE-byte elements.
 * copy_map: mmapable array of 32-byte elements, an extent of CKPT_EXTENT for each operation: one queue, then pieces.
 */
#define CKPT_VALUE	    (2u << 20) /* bytes of one element of a segment */
#define CKPT_SEGMENT_VALUES 512u       /* elements of the largest segment: 1 GiB, beyond 4 GiB old kernels wrap */
#define CKPT_SLOTS	    1024u      /* entries of data_map */
#define CKPT_EXTENT	    1024u      /* elements of copy_map for one operation */
#define CKPT_PIECES	    (CKPT_EXTENT - 1u)
#define CKPT_COPY_ELEMENTS  (CKPT_OPS * CKPT_EXTENT)
#define CKPT_PIECE_MAX	    (1u << 20) /* bytes of the largest piece: about 70 us with preemption off at 15 GB/s */
#define CKPT_BUDGET_MAX	    512u       /* pieces of one trigger */

struct ckpt_queue {
	__u32 next;   /* the cursor: the first piece not yet claimed; may overshoot count */
	__u32 count;  /* pieces in the extent */
	__u32 budget; /* pieces one trigger claims */
	__u32 done;   /* pieces that triggers are through with, whatever became of them */
	__u32 failed; /* of these, the ones not CKPT_PIECE_DONE or CKPT_PIECE_YOURS */
	__u32 lock;   /* claims before 5.12, which has no atomic fetch-and-add */
	__u32 armed;  /* openat() calls that armed this operation: user space sees that its marker was seen */
	__u32 state;  /* serve_abi.h, enum ckpt_queue_state */
};

enum ckpt_piece_state {
	CKPT_PIECE_NEW,
	CKPT_PIECE_DONE,  /* moved */
	CKPT_PIECE_YOURS, /* restore by the user writer: claimed, user space moves it */
	CKPT_PIECE_FAULT, /* the process's memory was not there: touch it and queue the piece again */
	CKPT_PIECE_BAD,	  /* no such slot, or length and offset make no sense: a bug, never skipped */
};

struct ckpt_piece {
	__u64 addr;   /* in the process */
	__u32 slot;   /* of data_map */
	__u32 offset; /* bytes into the segment */
	__u32 length; /* bytes, 1 .. CKPT_PIECE_MAX; never crosses an element of the segment */
	__u32 state;  /* enum ckpt_piece_state */
	__s32 error;  /* what the helper returned */
	__u32 pad;
};

/*
 * Seed layout. data_map: hash, ckpt_page_key -> CKPT_PAGE bytes. copy_map: mmapable array of CKPT_PAGE-byte elements, two for each
 * operation: the control page below, then the bounce buffer that every page passes through. The runs to move stand as
 * mappings in the operation's entry of store_map (restore_map), put there by user space after the walk. One thread at a time triggers
 * an operation: its bounce buffer has no lock.
 */
#define CKPT_PAGE	       4096u
#define CKPT_SEED_CTL(op)      ((op)*2u)
#define CKPT_SEED_BOUNCE(op)   ((op)*2u + 1u)
#define CKPT_SEED_PAGES	       (256u << 10) /* entries of data_map: 1 GiB, ... */
#define CKPT_SEED_PREALLOCATED (32u << 10)  /* ... or 128 MiB before 6.1, where all are paid for when it is made */

struct ckpt_page_key {
	__u64 image; /* never repeats within a process */
	__u64 page;  /* address, a multiple of CKPT_PAGE */
};

struct ckpt_seed {
	__u64 image;
	__u32 runs;   /* mappings of the entry that are the plan */
	__u32 run;    /* the cursor: the run that the next trigger works on ... */
	__u64 next;   /* ... and the address in it; 0: its start */
	__u64 moved;  /* pieces moved so far */
	__u64 addr;   /* the last piece: where */
	__u32 length; /* ... and its bytes */
	__u32 state;  /* enum ckpt_piece_state of the last piece; FAULT, BAD and NEW leave the cursor where it was */
	__s32 error;  /* what the helper returned: -ENOMEM (may pass) and -E2BIG (full) are data_map's, -ENOENT: no such element */
	__u32 armed;  /* as in ckpt_queue */
};

/* What both sides see of a session in .bss, mapped into user space. */
struct ckpt_globals {
	__u32 armed; /* operations under way, kept by user space: 0 lets every bystander off after one load */
	__u32 tgid;  /* the process this session serves, as the kernel counts; 0 until its hello */
	__u32 pad[14];
};

#endif /* CKPT_ABI_H */
