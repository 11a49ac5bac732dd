/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* serve_abi.h: what serve.bpf.c and the daemon share besides abi.h: the entries of clients, and what the programs tell the daemon. */
#ifndef CKPT_SERVE_ABI_H
#define CKPT_SERVE_ABI_H

#include "abi.h"

/*
 * A client is a process that the daemon serves. It speaks in one of two ways:
 *
 *	library	tagged system calls, as in abi.h; the daemon gave it the nonce and an operation number over its socket
 *	bare	the plain files, opened and looked for by name, with no library
 *
 * store_map and restore_map hold a ckpt_client for each operation under way. In the key, tgid is the process as the daemon's pid namespace
 * counts, op the number from the tag, or CKPT_OP_BARE; chunk is 0.
 */
#define CKPT_OP_BARE 0xffffu

/*
 * In store_map too, until the daemon has looked: a process that opened a path which was not in memory. If it looks for a completion file
 * meanwhile, it is held: the path may have been a marker, and the file another's.
 */
#define CKPT_OP_UNREAD 0xfffeu

#define CKPT_CLIENTS	 4096u /* entries of store_map, and of restore_map */
#define CKPT_UIDS_MAX	 32u
#define CKPT_EVENT_BYTES (256u << 10) /* of the ring buffer */

/* The bare protocol's files lie in this folder of the client's root. Markers may also be named without it. */
#define CKPT_FOLDER "/tmp/"

/* What the process was when it armed. It is compared, whole, at every trigger. */
struct ckpt_identity {
	__u64 mm;	  /* kernel address */
	__u64 start_time; /* of the thread group's leader, ns since boot */
	__u64 exec_id;	  /* counts its execve() calls */
	__u64 user_ns;	  /* kernel address */
	__u64 cap_permitted, cap_effective;
	__u32 uid, gid, suid, sgid, euid, egid, fsuid, fsgid; /* as the initial user namespace counts */
	__u32 dumpable;					      /* 1: SUID_DUMP_USER; nothing else is ever served */
	__u32 pad;
};

enum ckpt_client_state {
	CKPT_CLIENT_EXPECTED = 1, /* made by the daemon: the marker (library) or the next trigger (bare) binds it */
	CKPT_CLIENT_ARMED,	  /* bound; the daemon plans */
	CKPT_CLIENT_MOVING,	  /* by the daemon: triggers move the pieces of the extent */
	CKPT_CLIENT_ENDED,	  /* it is no longer the process that armed: nothing is moved for it any more */
};

enum ckpt_client_flags {
	CKPT_CLIENT_REPORT = 1, /* an event at each trigger that moved something */
	CKPT_CLIENT_HOLD = 2,	/* SIGSTOP at each trigger that claimed pieces for the daemon to move (CKPT_PIECE_YOURS) */
	CKPT_CLIENT_YOURS = 4,	/* of a restore: the daemon writes, even where the kernel may */
	CKPT_CLIENT_FREE = 8,	/* not held: the keeper lets it be, whoever has stopped it */
};

/*
 * The daemon makes EXPECTED entries, turns ARMED ones into MOVING ones, and deletes; the programs do the rest. Nothing else is written by
 * both but an ARMED entry whose client opens its marker once more, and then an event follows.
 */
struct ckpt_client {
	struct ckpt_identity identity;
	__u32 state;  /* enum ckpt_client_state */
	__u32 extent; /* of copy_map, below CKPT_OPS; while MOVING */
	__u32 flags;  /* enum ckpt_client_flags */
	__u32 stale;  /* the marker was opened again while MOVING: the next trigger arms anew */
	__u32 arms;   /* times it was armed */
	__u32 pad;
};

/* ckpt_queue.state, for bare clients, whose end is a file that somebody has to look for. */
enum ckpt_queue_state {
	CKPT_QUEUE_OPEN,
	CKPT_QUEUE_FINISHED, /* by the daemon: the completion file is there */
	CKPT_QUEUE_SEEN,     /* by the program: its client looked for the file after that */
};

enum ckpt_event_kind {
	CKPT_EVENT_ARMED = 1, /* an entry is ARMED. A bare client is held (SIGSTOP is on its way) */
	CKPT_EVENT_MOVED,     /* a trigger moved or claimed the last piece of the queue, or any piece if REPORT or HOLD is set */
	CKPT_EVENT_ENDED,     /* an entry is ENDED */
	CKPT_EVENT_UNREAD,    /* openat() of a path that is not in memory yet, at `address`: the daemon looks whether it is a marker */
	CKPT_EVENT_HELD,      /* see CKPT_OP_UNREAD. It comes after the UNREAD event */
};

struct ckpt_event {
	__u32 kind;  /* enum ckpt_event_kind */
	__u32 tgid;  /* as in the key */
	__u32 op;    /* as in the key; 0 with UNREAD */
	__u32 phase; /* 0: store_map, 1: restore_map */
	__u64 address;
	__u32 arms;	  /* of the entry, with ARMED */
	__u32 by_trigger; /* ARMED: by access(), else by openat() of the marker */
	__u32 held;	  /* SIGSTOP was sent before this event: it is for the daemon to send SIGCONT */
	__u32 pad;
};

/*
 * Whose triggers may move the pieces of an extent. A client's entry names the extent, but a trigger under way may know an entry of a while
 * ago, so it looks here too, and says for how long. Written by the daemon, `users` by the programs.
 */
struct ckpt_extent {
	struct ckpt_identity borrower;
	__u32 phase, op;
	__u32 open;  /* 0: nobody's */
	__u32 users; /* triggers at work in it */
};

/* In .bss of serve.bpf.c, mapped into the daemon. */
struct ckpt_serve_globals {
	__u32 armed;   /* it begins as ckpt_globals does, so that one hello serves both; `armed` is not looked at here */
	__u32 tgid;    /* the daemon's own, in the initial pid namespace; 0 until its hello, and until then nobody is served */
	__u64 pid_ns;  /* the daemon's: kernel address, ... */
	__u32 level;   /* ... and depth. Learned by its hello */
	__u32 dropped; /* events for which the ring had no room: the entries tell */
	__u32 full;    /* bare clients not served because the map had no room for their entry */
	__u32 unread;  /* CKPT_EVENT_UNREAD for which there was no room: nobody looks at those paths */
	__u32 pad[8];
	struct ckpt_extent extent[CKPT_OPS];
};

#endif /* CKPT_SERVE_ABI_H */
