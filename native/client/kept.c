/* SPDX-License-Identifier: MIT */
/* kept.c: the mapping that is kept: making it, noticing that this is a fork()ed child, and the lock of the process. */
#include <errno.h>
#include <limits.h>
#include <linux/types.h>
#include <sys/mman.h>

#include "../../bpf/abi.h"
#include "connection.h"
#include "kept.h"
#include "note.h"
#include "sys.h"

/* Each part begins on a page, whatever the size of one. */
#define PART (64u << 10)

#define LOCK_AWAITED (1u << 31)

enum life {
	LIFE_WIPED, /* of a new mapping, and of a child's copy */
	LIFE_BEGINNING,
	LIFE_BEGUN,
};

static struct ckpt_kept *ours;
static bool refused;

_Static_assert(sizeof(struct ckpt_kept) <= PART, "the second part must not be overlapped");

static uint32_t *life_of(struct ckpt_kept *kept)
{
	return (uint32_t *)((char *)kept + PART);
}

struct ckpt_wire_range ckpt_kept_range(const struct ckpt_kept *kept)
{
	return (struct ckpt_wire_range){.start = (uintptr_t)kept, .end = (uintptr_t)kept + 2 * PART};
}

static void unmap(struct ckpt_kept *kept)
{
	sys_call(SYS_munmap, (long)kept, 2 * PART, 0, 0, 0, 0);
}

static struct ckpt_kept *map(void)
{
	long at = sys_call(SYS_mmap, 0, 2 * PART, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at < 0 && at > -4096)
		return NULL;
	/* whole pages of any size, as PART is */
	if (sys_call(SYS_madvise, at + PART, PART, MADV_WIPEONFORK, 0, 0, 0) < 0) {
		unmap((struct ckpt_kept *)at);
		return NULL;
	}
	return (struct ckpt_kept *)at;
}

static struct ckpt_kept *find(void)
{
	struct ckpt_kept *kept = __atomic_load_n(&ours, __ATOMIC_ACQUIRE), *mine;

	if (kept)
		return kept;
	mine = map();
	if (!mine)
		return NULL;
	if (__atomic_compare_exchange_n(&ours, &kept, mine, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return mine;
	unmap(mine);
	return kept;
}

static void put(char *to, const char *from)
{
	while ((*to++ = *from++))
		;
}

/* What a process begins with; `kept` is all zeros, or a copy of the parent's, whose other threads may have been anywhere. */
static void begin(struct ckpt_kept *kept)
{
	ckpt_drop_inherited(kept);
	kept->pid = sys_getpid();
	kept->lock = 0;
	put(kept->marker[0], CKPT_READY_STORE);
	put(kept->marker[1], CKPT_READY_RESTORE);
	put(kept->complete[0], CKPT_COMPLETE_STORE);
	put(kept->complete[1], CKPT_COMPLETE_RESTORE);
	for (uint32_t i = 0; i < CKPT_NOTES; i++)
		kept->notes[i].tid = 0;
}

/* One thread begins, the others wait for it. */
static void begin_once(struct ckpt_kept *kept)
{
	uint32_t *life = life_of(kept);
	uint32_t now;

	while ((now = __atomic_load_n(life, __ATOMIC_ACQUIRE)) != LIFE_BEGUN) {
		if (now == LIFE_BEGINNING) {
			sys_futex_wait(life, LIFE_BEGINNING);
		} else if (__atomic_compare_exchange_n(life, &now, LIFE_BEGINNING, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
			begin(kept);
			__atomic_store_n(life, LIFE_BEGUN, __ATOMIC_RELEASE);
			sys_futex_wake(life, INT_MAX);
		}
	}
}

/* EBUSY if this thread holds it already. */
static int lock(struct ckpt_kept *kept)
{
	uint32_t me = sys_gettid(), holder = 0;

	if (__atomic_compare_exchange_n(&kept->lock, &holder, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		return 0;
	if ((holder & ~LOCK_AWAITED) == me)
		return EBUSY;
	for (;;) {
		holder = 0;
		/* others may wait as well: whoever waited leaves the mark */
		if (__atomic_compare_exchange_n(&kept->lock, &holder, me | LOCK_AWAITED, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			return 0;
		if (holder & LOCK_AWAITED ||
		    __atomic_compare_exchange_n(&kept->lock, &holder, holder | LOCK_AWAITED, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			sys_futex_wait(&kept->lock, holder | LOCK_AWAITED);
	}
}

int ckpt_enter(struct ckpt_kept **kept)
{
	*kept = find();
	if (!*kept) {
		refused = true;
		return EIO;
	}
	begin_once(*kept);
	/* a vfork()ed child: what it wrote here, its parent would find */
	if ((*kept)->pid != sys_getpid())
		return EPERM;
	if (lock(*kept))
		return ckpt_fail(*kept, EBUSY,
				 "This thread is in the middle of a save or recover: a progress callback must not begin another");
	return 0;
}

void ckpt_leave(struct ckpt_kept *kept)
{
	if (__atomic_exchange_n(&kept->lock, 0, __ATOMIC_RELEASE) & LOCK_AWAITED)
		sys_futex_wake(&kept->lock, 1);
}

const char *ckpt_noted(void)
{
	struct ckpt_kept *kept = __atomic_load_n(&ours, __ATOMIC_ACQUIRE);

	if (!kept)
		return refused ? "The kernel refuses the library memory of its own" : "";
	if (__atomic_load_n(life_of(kept), __ATOMIC_ACQUIRE) != LIFE_BEGUN)
		return "";
	if (kept->pid != sys_getpid())
		return "This process shares the memory of its parent (vfork), which alone can be served";
	return ckpt_find_note(kept);
}
