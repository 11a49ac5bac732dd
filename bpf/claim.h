/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* claim.h: taking the next pieces of a queue, so that several threads may trigger one operation at once. */
#ifndef CKPT_CLAIM_H
#define CKPT_CLAIM_H

struct claim {
	__u32 first;
	__u32 count;
};

/* How many of `budget` pieces from `first` on there are. */
static __always_inline __u32 left_of(__u32 count, __u32 first, __u32 budget)
{
	if (first >= count)
		return 0;
	return count - first < budget ? count - first : budget;
}

/*
 * 5ca419f2864a ("bpf: Add BPF_FETCH field / create atomic_fetch_add instruction"), 5.12. Before it an atomic add tells nothing; but
 * add, then look, makes a lock that two can lose and never two can win. Who loses claims nothing and triggers again.
 */
static __always_inline __u32 advance_by_fetch(struct ckpt_queue *queue, __u32 budget)
{
	return __sync_fetch_and_add(&queue->next, budget);
}

static __always_inline __u32 advance_by_lock(struct ckpt_queue *queue, __u32 budget)
{
	__u32 first = ~0u;

	__sync_fetch_and_add(&queue->lock, 1);
	if (READ_ONCE(queue->lock) == 1) {
		first = READ_ONCE(queue->next);
		WRITE_ONCE(queue->next, first + budget);
	}
	__sync_fetch_and_add(&queue->lock, -1);
	return first;
}

/* Claims what one trigger may take. A count of 0: nothing is left, or another CPU holds the lock. */
static __always_inline struct claim claim_pieces(struct ckpt_queue *queue, bool fetch)
{
	__u32 count = READ_ONCE(queue->count), budget = READ_ONCE(queue->budget);
	struct claim claim = {};

	if (count > CKPT_PIECES)
		count = CKPT_PIECES;
	if (!budget)
		budget = 1;
	if (budget > CKPT_BUDGET_MAX)
		budget = CKPT_BUDGET_MAX;

	/* a cursor that is through stays where it is: it must not wrap */
	if (READ_ONCE(queue->next) >= count)
		return claim;
	claim.first = fetch ? advance_by_fetch(queue, budget) : advance_by_lock(queue, budget);
	claim.count = left_of(count, claim.first, budget);
	return claim;
}

/* Adds, and is a full barrier with fetch; without, it is one on x86. */
static __always_inline void add_with_barrier(__u32 *counter, __u32 count, bool fetch)
{
	__u32 before;

	if (fetch) {
		before = __sync_fetch_and_add(counter, count);
		asm volatile("" : : "r"(before));
	} else {
		__sync_fetch_and_add(counter, count);
	}
}

/* Says that the pieces of a claim are through: whoever sees the count sees their bytes, with fetch on arm64 too. */
static __always_inline void release_pieces(struct ckpt_queue *queue, __u32 count, bool fetch)
{
	add_with_barrier(&queue->done, count, fetch);
}

#endif /* CKPT_CLAIM_H */
