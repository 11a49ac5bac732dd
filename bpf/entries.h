/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* entries.h: store_map and restore_map of serve.bpf.c, the extents that clients may use, and the events for the daemon. */
#ifndef CKPT_ENTRIES_H
#define CKPT_ENTRIES_H

#include "client.h"
#include "claim.h"

/* Always preallocated: clients cannot make the kernel take more memory, and every kernel lets tracing programs insert. */
struct client_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CKPT_CLIENTS);
	__type(key, struct ckpt_key);
	__type(value, struct ckpt_client);
};

struct client_map store_map SEC(".maps");
struct client_map restore_map SEC(".maps");

/* The fifth map beside the four that hold and move memory: it wakes the daemon, which else would have to poll the entries. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, CKPT_EVENT_BYTES);
} events SEC(".maps");

static __always_inline struct ckpt_client *find_client(__u32 phase, const struct ckpt_key *key)
{
	if (phase == STORE)
		return bpf_map_lookup_elem(&store_map, key);
	return bpf_map_lookup_elem(&restore_map, key);
}

#define READ_TRIES 3

/*
 * Copies an entry; false if there is none. The memory of an entry that is replaced or deleted is used for the next one at once, maybe another
 * client's, while we still read: what was read counts only if the entry is in the map before and after. For the same reason nothing is ever
 * written through the pointer; see write_client(). An entry that keeps changing is as good as none.
 */
static __always_inline bool read_client(__u32 phase, const struct ckpt_key *key, struct ckpt_client *client)
{
	struct ckpt_client *entry;

#pragma unroll
	for (int i = 0; i < READ_TRIES; i++) {
		entry = find_client(phase, key);
		if (!entry)
			return false;
		*client = *entry;
		barrier();
		if (find_client(phase, key) == entry)
			return true;
	}
	return false;
}

/*
 * Puts an entry in place of what is there under that key, which is the caller's own: nobody else's entry can be hit. BPF_EXIST: not if the
 * daemon has deleted it.
 */
static __always_inline long write_client(__u32 phase, const struct ckpt_key *key, const struct ckpt_client *client, __u64 flags)
{
	if (phase == STORE)
		return bpf_map_update_elem(&store_map, key, client, flags);
	return bpf_map_update_elem(&restore_map, key, client, flags);
}

/*
 * Goes to work in an extent, if it is lent to this very operation of this very process; null if not. The entry says which extent, but what
 * it says may be old; and pieces of another client must not be moved here. So the daemon notes the borrower beside the extent, takes the
 * note away before it lays other pieces, and then waits until nobody is at work: first we say that we are, then we look.
 */
static __always_inline struct ckpt_extent *enter_extent(const struct ckpt_client *client, __u32 phase, __u32 op,
							const struct ckpt_identity *mine, bool fetch)
{
	__u64 at = client->extent;
	struct ckpt_extent *extent;

	barrier_var(at);
	if (at >= CKPT_OPS)
		return 0;
	extent = &globals.extent[at];
	add_with_barrier(&extent->users, 1, fetch);
	if (READ_ONCE(extent->open) && extent->phase == phase && extent->op == op && same_identity(&extent->borrower, mine))
		return extent;
	add_with_barrier(&extent->users, -1, fetch);
	return 0;
}

static __always_inline void leave_extent(struct ckpt_extent *extent, bool fetch)
{
	add_with_barrier(&extent->users, -1, fetch);
}

/* Without room for it, it is only counted: what it tells about stands in the entry. */
static __always_inline void send_event(__u32 kind, __u32 phase, const struct ckpt_key *key, __u32 arms, bool by_trigger, bool held)
{
	struct ckpt_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		__sync_fetch_and_add(&globals.dropped, 1);
		return;
	}
	*event = (struct ckpt_event){
		.kind = kind,
		.tgid = key->tgid,
		.op = key->op,
		.phase = phase,
		.arms = arms,
		.by_trigger = by_trigger,
		.held = held,
	};
	bpf_ringbuf_submit(event, 0);
}

/*
 * Nobody is behind these yet: any process of an allowed uid makes one by an openat() of a bad address. They get half of the ring, so
 * that those of clients find room.
 */
static __always_inline void send_unread(__u32 tgid, __u64 address, struct ckpt_client *client)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct ckpt_key key = {.tgid = tgid, .op = CKPT_OP_UNREAD};
	struct ckpt_event *event = 0;

	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < CKPT_EVENT_BYTES / 2)
		event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&globals.unread, 1);
		return;
	}
	/* without room for it the process is not held, and served all the same; the start time tells who it was if the daemon dies */
	__builtin_memset(client, 0, sizeof(*client));
	client->identity.start_time = BPF_CORE_READ(task, group_leader, start_boottime);
	write_client(STORE, &key, client, BPF_ANY);
	*event = (struct ckpt_event){.kind = CKPT_EVENT_UNREAD, .tgid = tgid, .op = key.op, .address = address};
	bpf_ringbuf_submit(event, 0);
}

/*
 * A process looks for a completion file. If the daemon has yet to see what it opened just before, which may have been a marker, it waits
 * for that: the file may be another's.
 */
static __always_inline void hold_unread(__u32 phase, __u32 tgid)
{
	struct ckpt_key key = {.tgid = tgid, .op = CKPT_OP_UNREAD};
	struct ckpt_event *event;

	if (!find_client(STORE, &key))
		return;
	/* nobody would let it go who was not told */
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return;
	bpf_send_signal(SIGSTOP);
	*event = (struct ckpt_event){.kind = CKPT_EVENT_HELD, .tgid = tgid, .op = key.op, .phase = phase, .held = true};
	bpf_ringbuf_submit(event, 0);
}

#endif /* CKPT_ENTRIES_H */
