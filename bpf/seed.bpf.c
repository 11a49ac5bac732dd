/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* seed.bpf.c: the seed's layout. One page an access(), through the bounce buffer, into a hash with one element for each page. */
#include "kernel.h"
#include "abi.h"
#include "maps.h"
#include "request.h"
#include "arm.h"
#include "copy.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct page {
	__u8 bytes[CKPT_PAGE];
};

/* Elements are allocated as they come, as in store_map; see there. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CKPT_SEED_PAGES);
	__type(key, struct ckpt_page_key);
	__type(value, struct page);
} data_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, CKPT_OPS * 2);
	__type(key, __u32);
	__type(value, struct page);
} copy_map SEC(".maps");

static const struct page zeros;

/* The part of a page that lies in the run under the cursor. */
struct part {
	struct ckpt_page_key key;
	__u32 offset;
	__u32 length;
};

static __always_inline struct ckpt_seed *find_control(__u32 op)
{
	__u32 at = CKPT_SEED_CTL(op);

	return bpf_map_lookup_elem(&copy_map, &at);
}

static __always_inline struct page *find_bounce(__u32 op)
{
	__u32 at = CKPT_SEED_BOUNCE(op);

	return bpf_map_lookup_elem(&copy_map, &at);
}

/* A run of the plan: the mappings of the entry. Null if there is no such thing. */
static __always_inline struct ckpt_mapping *find_run(const struct request *request, __u32 run)
{
	struct ckpt_entry *entry = find_chunk(request->phase, request->op, run / CKPT_CHUNK_MAPPINGS);
	__u64 slot = run % CKPT_CHUNK_MAPPINGS;

	barrier_var(slot);
	if (!entry || slot >= CKPT_CHUNK_MAPPINGS)
		return 0;
	return &entry->mapping[slot];
}

/* What is next: false if the cursor is outside its run. */
static __always_inline bool next_part(const struct ckpt_seed *control, const struct ckpt_mapping *run, struct part *part)
{
	__u64 addr = control->next ? control->next : run->start;
	__u64 page_end = (addr & ~(__u64)(CKPT_PAGE - 1)) + CKPT_PAGE;

	if (addr < run->start || addr >= run->end)
		return false;
	part->key.image = control->image;
	part->key.page = addr & ~(__u64)(CKPT_PAGE - 1);
	part->offset = addr & (CKPT_PAGE - 1);
	part->length = (page_end < run->end ? page_end : run->end) - addr;
	return true;
}

static __always_inline long load_page(struct page *bounce, const void *from)
{
	return bpf_probe_read_kernel(bounce, sizeof(*bounce), from);
}

/* Process to bounce buffer to data_map. Another run on the same page may have stored its bytes before: they stay. */
static __always_inline __u32 store(struct page *bounce, const struct part *part, long *error)
{
	const struct page *stored = 0;

	if (part->length < CKPT_PAGE) {
		stored = bpf_map_lookup_elem(&data_map, &part->key);
		*error = stored ? load_page(bounce, stored) : load_page(bounce, &zeros);
		if (*error)
			return CKPT_PIECE_BAD;
	}
	*error = copy(bounce, CKPT_PAGE, part->offset, part->length, part->key.page + part->offset, FROM_PROCESS);
	if (*error)
		return *error == -EINVAL ? CKPT_PIECE_BAD : CKPT_PIECE_FAULT;
	*error = bpf_map_update_elem(&data_map, &part->key, bounce, BPF_ANY);
	if (*error)
		return *error == -EBUSY ? CKPT_PIECE_NEW : CKPT_PIECE_BAD;
	return CKPT_PIECE_DONE;
}

/* data_map to bounce buffer to process, the last step by user space where the kernel may not write. */
static __always_inline __u32 restore(struct page *bounce, const struct part *part, bool yours, long *error)
{
	const struct page *stored = bpf_map_lookup_elem(&data_map, &part->key);

	*error = -ENOENT;
	if (!stored)
		return CKPT_PIECE_BAD;
	*error = load_page(bounce, stored);
	if (*error)
		return CKPT_PIECE_BAD;
	if (!kernel_writer || yours)
		return CKPT_PIECE_YOURS;
	*error = copy(bounce, CKPT_PAGE, part->offset, part->length, part->key.page + part->offset, TO_PROCESS);
	if (*error)
		return *error == -EINVAL ? CKPT_PIECE_BAD : CKPT_PIECE_FAULT;
	return CKPT_PIECE_DONE;
}

/* Notes what became of a part, and goes on to the next if it moved. */
static __always_inline void note(struct ckpt_seed *control, const struct ckpt_mapping *run, const struct part *part, __u32 state,
				 long error)
{
	__u64 addr = part->key.page + part->offset;

	control->addr = addr;
	control->length = part->length;
	control->error = error;
	control->state = state;
	if (state != CKPT_PIECE_DONE && state != CKPT_PIECE_YOURS)
		return;
	control->moved++;
	control->next = addr + part->length;
	if (control->next >= run->end) {
		control->next = 0;
		control->run++;
	}
}

static __always_inline int on_openat(const struct sys_enter *ctx, bool iterator)
{
	struct request request;
	struct ckpt_seed *control;

	/* ignore whoever is not our process at a marker */
	if (!asks_to_arm(ctx, &request) || !arm(&request, iterator))
		return 0;

	/* last, so that user space finds the entry complete once it sees this */
	control = find_control(request.op);
	if (control)
		__sync_fetch_and_add(&control->armed, 1);
	return 0;
}

/* One of the two is loaded, as the kernel allows: see walk.h. */
SEC("?tp/syscalls/sys_enter_openat")
int seed_arm_iter(struct sys_enter *ctx)
{
	return on_openat(ctx, true);
}

SEC("?tp/syscalls/sys_enter_openat")
int seed_arm_list(struct sys_enter *ctx)
{
	return on_openat(ctx, false);
}

SEC("tp/syscalls/sys_enter_access")
int seed_move(struct sys_enter *ctx)
{
	struct ckpt_mapping *run;
	struct ckpt_seed *control;
	struct request request;
	struct page *bounce;
	struct part part;
	long error = 0;
	__u32 state;

	/* ignore whoever is not our process at a trigger, and operations that are not under way */
	if (!asks_to_move(ctx, &request) || !find_entry(request.phase, request.op))
		return 0;
	control = find_control(request.op);
	bounce = find_bounce(request.op);
	if (!control || !bounce || control->run >= control->runs)
		return 0;

	/* what is next */
	run = find_run(&request, control->run);
	if (!run || !next_part(control, run, &part)) {
		control->error = -EINVAL;
		control->state = CKPT_PIECE_BAD;
		return 0;
	}

	/* move it, and say so */
	if (request.phase == STORE)
		state = store(bounce, &part, &error);
	else
		state = restore(bounce, &part, request.yours, &error);
	note(control, run, &part, state, error);
	return 0;
}
