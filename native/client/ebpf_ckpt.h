/* SPDX-License-Identifier: MIT */
/*
 * ebpf_ckpt.h: save this process's memory, and take it back, served by the ebpf-ckpt daemon. Needs no privilege.
 *
 * Rolled back: heap, .data and .bss of program and libraries, private anonymous mappings, and shared anonymous memory that no other process
 * maps. Left alone: the stacks of all threads, registers, files and descriptors: the program goes on where it is, with the memory of then. Local
 * variables keep their values across recovercontext(). Private anonymous memory that was unmapped since, by free() as well, is mapped again, and
 * protections are what they were; what was mapped since stays.
 */
#ifndef EBPF_CKPT_H
#define EBPF_CKPT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Saves the memory of this process, in place of what was saved before under the same name; recovercontext() brings it back, as often as
 * wanted. Both return 0, or -1 with errno set and a text in ckpt_strerror(). A save is whole or absent. A recover that fails after its first
 * byte leaves the memory half recovered: it may be recovered again, and saving is refused until then (ENOTRECOVERABLE).
 *
 *	ENOTCONN	no daemon answers at the socket
 *	EPERM		the daemon does not serve this user, or this process cannot be served (not dumpable, setuid)
 *	ENOENT		nothing was saved under that name, or it ended with an execve() or a change of credentials
 *	ENOSPC		a memory ceiling of the daemon, or of the machine
 *	EFAULT		memory that was saved is no longer mapped, and cannot be mapped again; no byte was written
 *	EBUSY		threads were born or ended since the save; nothing was changed. Or: called from a progress callback
 *	ECONNRESET	the daemon died; what it held is lost
 *	ECANCELED	the progress callback ended it
 *	EINVAL		options that make no sense
 *	ENOTRECOVERABLE	see above
 *	EIO		anything else: the text says what
 *
 * Threads may call at once, and wait for one another. Signal handlers may run at any time, and must not call. A child made by fork() begins
 * anew: it may save and recover, but has none of its parent's contexts (ENOENT). The library opens one descriptor, at the first call.
 */
int savecontext(void);
int recovercontext(void);

enum ckpt_part {
	CKPT_PART_HEAP = 1,
	CKPT_PART_DATA = 2,	   /* .data, .bss and RELRO of program and libraries */
	CKPT_PART_ANONYMOUS = 4,   /* private anonymous mappings */
	CKPT_PART_SHARED = 8,	   /* shared anonymous memory that no other process maps */
	CKPT_PART_SHARED_ALL = 16, /* ... and where others do map it: they see the rollback */
};

enum ckpt_phase {
	CKPT_SAVING,
	CKPT_RECOVERING,
};

struct ckpt_progress {
	enum ckpt_phase phase;
	uint64_t done_pages, total_pages;
	uint64_t done_bytes, total_bytes;
};

/*
 * Called after each trigger. Returns 0 to go on, anything else to end the operation (ECANCELED). While recovering, all memory that is rolled
 * back changes under it: what it must remember belongs on the stack. It has to return: no longjmp(), no exception.
 */
typedef int (*ckpt_progress_fn)(const struct ckpt_progress *progress, void *data);

struct ckpt_options {
	size_t size;		    /* sizeof(struct ckpt_options), so that it may grow */
	const char *name;	    /* of the context, at most CKPT_NAME_MAX bytes; NULL: the one that savecontext() uses */
	uint32_t parts;		    /* enum ckpt_part, of a save; 0: all but CKPT_PART_SHARED_ALL. A recover follows its save */
	uint32_t pages_per_trigger; /* 0: as many as may be; 1: page by page */
	ckpt_progress_fn progress;  /* may be NULL */
	void *data;		    /* for it */
};

#define CKPT_NAME_MAX 63

/* The same with options; NULL: the defaults. */
int savecontext_with(const struct ckpt_options *options);
int recovercontext_with(const struct ckpt_options *options);

/* Frees what was saved under a name (NULL: savecontext()'s). 0, or -1: ENOENT and the errors of the connection. */
int ckpt_forget(const char *name);

/* Why the last call of this thread failed: a sentence; "" after success. Valid until its next call. */
const char *ckpt_strerror(void);

/* Version of the library, "0.1.0". */
const char *ckpt_version(void);

#ifdef __cplusplus
}
#endif

#endif /* EBPF_CKPT_H */
