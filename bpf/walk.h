/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* walk.h: recording the VMAs of the current process in an operation's entry, as its kernel allows. */
#ifndef CKPT_WALK_H
#define CKPT_WALK_H

/*
 * What one openat() records at most: the walk runs with preemption disabled, and the list's must be unrolled by the verifier.
 */
#define ITERATOR_STEPS 8192u
#define LIST_STEPS     1024u
#define TREE_DEPTH     64 /* a red-black tree of 65,530 nodes is at most 32 deep */

/*
 * Where the next mapping of an operation is recorded. `chunk` is where the one before it went, null if that is not known. Null, and why in
 * *error, if there is no room.
 */
static __always_inline struct ckpt_mapping *next_mapping(__u32 phase, __u32 op, __u32 recorded, struct ckpt_entry **chunk, long *error)
{
	__u64 slot = recorded % CKPT_CHUNK_MAPPINGS;

	*error = -EINVAL;
	if (!*chunk || !slot) {
		if (recorded >= CKPT_CHUNKS * CKPT_CHUNK_MAPPINGS)
			return 0;
		*chunk = make_chunk(phase, op, recorded / CKPT_CHUNK_MAPPINGS, error);
	}
	barrier_var(slot);
	if (!*chunk || slot >= CKPT_CHUNK_MAPPINGS)
		return 0;
	return &(*chunk)->mapping[slot];
}

/* What a walk that found no room is called: memory may come back, a chunk beyond the last never does. */
static __always_inline __u32 out_of_room(long error, bool any)
{
	if (error != -ENOMEM && error != -EBUSY)
		return CKPT_WALK_NONE;
	return any ? CKPT_WALK_MORE : CKPT_WALK_BUSY;
}

/* Ends a walk. The count of the mm must agree: what was put together from several calls, or without the lock, may be torn. */
static __always_inline void end_walk(struct ckpt_entry *header, __u32 walk)
{
	struct mm_struct *mm = (void *)header->mm;

	if (walk == CKPT_WALK_DONE) {
		header->map_count = BPF_CORE_READ(mm, map_count);
		if (header->mappings != header->map_count)
			walk = CKPT_WALK_BUSY;
	}
	if (walk != CKPT_WALK_DONE && walk != CKPT_WALK_MORE)
		header->mappings = 0;
	header->walk = walk;
}

static __always_inline __u32 kind_of(const void *file, const void *anon_vma)
{
	return (file ? CKPT_KIND_FILE : 0) | (anon_vma ? CKPT_KIND_ANON : 0);
}

/*
 * From 6.7: 4ac454682158 ("bpf: Introduce task_vma open-coded iterator kfuncs"). It tries mmap_lock and, if that is taken, looks like
 * a process without mappings. Later kernels hand out a copy of the VMA: only plain fields are read.
 */
struct bpf_iter_task_vma {
	__u64 opaque[1];
} __attribute__((aligned(8)));

struct task_struct;

extern int bpf_iter_task_vma_new(struct bpf_iter_task_vma *it, struct task_struct *task, __u64 addr) __ksym __weak;
extern struct vm_area_struct *bpf_iter_task_vma_next(struct bpf_iter_task_vma *it) __ksym __weak;
extern void bpf_iter_task_vma_destroy(struct bpf_iter_task_vma *it) __ksym __weak;

static __always_inline void walk_by_iterator(const struct request *request, struct ckpt_entry *header)
{
	__u32 recorded, before = header->mappings, walk = CKPT_WALK_DONE;
	struct ckpt_entry *chunk = 0;
	struct ckpt_mapping *mapping;
	struct bpf_iter_task_vma it;
	struct vm_area_struct *vma;
	long error, refused;

	refused = bpf_iter_task_vma_new(&it, (void *)bpf_get_current_task_btf(), header->next_addr);
	while ((vma = bpf_iter_task_vma_next(&it))) {
		/* the count is kept in the map: in a register it would make every round a new state to the verifier */
		recorded = header->mappings;
		if (recorded - before >= ITERATOR_STEPS) {
			header->next_addr = vma->vm_start;
			walk = CKPT_WALK_MORE;
			break;
		}
		mapping = next_mapping(request->phase, request->op, recorded, &chunk, &error);
		if (!mapping) {
			header->next_addr = vma->vm_start;
			walk = out_of_room(error, recorded != before);
			break;
		}

		mapping->start = vma->vm_start;
		mapping->end = vma->vm_end;
		mapping->pgoff = vma->vm_pgoff;
		mapping->flags = vma->vm_flags;
		mapping->kind = kind_of(vma->vm_file, vma->anon_vma);
		header->mappings = recorded + 1;
	}
	bpf_iter_task_vma_destroy(&it);
	end_walk(header, refused ? CKPT_WALK_BUSY : walk);
}

/*
 * Before 6.1, where 763ecb035029 ("mm: remove the vma linked list") took it away: mm->mmap, in order of address, read without the
 * lock. Between the two there is neither, and user space fills the entry.
 */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct rb_node {
	struct rb_node *rb_right;
	struct rb_node *rb_left;
};

struct rb_root {
	struct rb_node *rb_node;
};

struct vm_area_struct___list {
	struct vm_area_struct___list *vm_next;
	struct rb_node vm_rb;
};

struct mm_struct___list {
	struct vm_area_struct___list *mmap;
	struct rb_root mm_rb;
};

#pragma clang attribute pop

/* The first VMA that ends beyond `addr`, by the tree that went with the list. */
static __always_inline __u64 find_by_tree(struct mm_struct___list *mm, __u64 addr)
{
	struct rb_node *node = BPF_CORE_READ(mm, mm_rb.rb_node);
	__u64 found = 0;

	for (int depth = 0; depth < TREE_DEPTH && node; depth++) {
		__u64 at = (__u64)node - bpf_core_field_offset(struct vm_area_struct___list, vm_rb);
		struct vm_area_struct *vma = (void *)at;

		if (BPF_CORE_READ(vma, vm_end) > addr) {
			found = at;
			node = BPF_CORE_READ(node, rb_left);
		} else {
			node = BPF_CORE_READ(node, rb_right);
		}
	}
	return found;
}

/*
 * Records the VMA at a kernel address and returns the next one's; 0: the walk is over, the header says how. A global function, and with
 * scalars only, so that 5.10 verifies it once and not once a round.
 */
__noinline __u64 record_listed(__u32 phase, __u32 op, __u32 step, __u64 at)
{
	struct vm_area_struct___list *listed = (void *)at;
	struct vm_area_struct *vma = (void *)at;
	struct ckpt_entry *header = find_chunk(phase, op, 0);
	struct ckpt_entry *chunk = 0;
	struct ckpt_mapping *mapping;
	__u64 start, end, next;
	long error;

	if (!header || !bpf_core_field_exists(struct mm_struct___list, mmap))
		return 0;
	if (bpf_core_read(&start, sizeof(start), &vma->vm_start) || bpf_core_read(&end, sizeof(end), &vma->vm_end)) {
		end_walk(header, CKPT_WALK_FAULT);
		return 0;
	}
	header->next_addr = start;
	if (step >= LIST_STEPS) {
		end_walk(header, CKPT_WALK_MORE);
		return 0;
	}
	mapping = next_mapping(phase, op, header->mappings, &chunk, &error);
	if (!mapping) {
		end_walk(header, out_of_room(error, step));
		return 0;
	}

	mapping->start = start;
	mapping->end = end;
	mapping->pgoff = BPF_CORE_READ(vma, vm_pgoff);
	mapping->flags = BPF_CORE_READ(vma, vm_flags);
	mapping->kind = kind_of(BPF_CORE_READ(vma, vm_file), BPF_CORE_READ(vma, anon_vma));
	header->mappings++;
	next = (__u64)BPF_CORE_READ(listed, vm_next);
	if (!next)
		end_walk(header, CKPT_WALK_DONE);
	return next;
}

static __always_inline void walk_by_list(const struct request *request, struct ckpt_entry *header)
{
	struct mm_struct___list *mm = (void *)header->mm;
	__u64 at;

	if (!bpf_core_field_exists(struct mm_struct___list, mmap))
		return;
	if (header->next_addr)
		at = find_by_tree(mm, header->next_addr);
	else
		at = (__u64)BPF_CORE_READ(mm, mmap);
	if (!at) {
		end_walk(header, CKPT_WALK_BUSY);
		return;
	}
	for (__u32 step = 0; step <= LIST_STEPS && at; step++)
		at = record_listed(request->phase, request->op, step, at);
}

#endif /* CKPT_WALK_H */
