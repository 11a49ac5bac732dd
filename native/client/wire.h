/* SPDX-License-Identifier: MIT */
/*
 * wire.h: the messages between the C library and the daemon, over a unix SOCK_SEQPACKET socket; one message a packet, in host order.
 *
 * A save (a recover in the same way):
 *
 *	library					daemon
 *	SAVE				->	who is it (SO_PEERCRED); checks, makes an EXPECTED entry
 *					<-	GO: nonce, op
 *	openat(marker, tag), again
 *	after CKPT_AGAIN_MS		->	(BPF binds the entry, CKPT_EVENT_ARMED)
 *					<-	ARMED: the marker was seen and is not opened again; the daemon plans
 *					<-	BATCH: so many triggers
 *	that many access(completion file, tag); one more each
 *	CKPT_AGAIN_MS without a message	->	(BPF moves)
 *					<-	MOVED after each trigger, if BATCH said so: the library waits for it before the next
 *					<-	BATCH: the next one; or DONE; or FAILED
 *
 * FAILED may come at any time and ends the operation. Messages of an operation carry its number; those of others are ignored. A library that
 * gives up sends CANCEL and waits for no answer. One operation at a time on a connection. A connection that closes frees all contexts of its client.
 */
#ifndef EBPF_CKPT_WIRE_H
#define EBPF_CKPT_WIRE_H

#include <stdint.h>

#define CKPT_WIRE_VERSION 1u
#define CKPT_SOCKET	  "/run/ebpf-ckpt/socket"
#define CKPT_SOCKET_ENV	  "EBPF_CKPT_SOCKET"
#define CKPT_AGAIN_MS	  10 /* a program can be skipped: then the same system call is made again */
#define CKPT_KEEPS	  4u
#define CKPT_TEXT_MAX	  240u

enum ckpt_wire_request_type {
	CKPT_WIRE_SAVE = 1,
	CKPT_WIRE_RECOVER,
	CKPT_WIRE_FORGET, /* answered by DONE or FAILED, with serial instead of an op */
	CKPT_WIRE_CANCEL, /* answered by FAILED with ECANCELED, or by what was on its way */
};

struct ckpt_wire_range {
	uint64_t start, end; /* bytes, end exclusive */
};

struct ckpt_wire_request {
	uint32_t version; /* CKPT_WIRE_VERSION */
	uint32_t type;
	uint32_t serial; /* chosen by the library; replies carry it */
	uint32_t parts;	 /* of a SAVE: CKPT_PART_..., 0: the default */
	uint32_t pages_per_trigger;
	uint32_t report;			 /* MOVED is wanted after each trigger */
	struct ckpt_wire_range keep[CKPT_KEEPS]; /* of a SAVE: the library's own memory, left alone; unused ones are 0,0 */
	char name[64];				 /* zero-terminated; "": savecontext()'s */
};

enum ckpt_wire_reply_type {
	CKPT_WIRE_GO = 1,
	CKPT_WIRE_BATCH,
	CKPT_WIRE_MOVED,
	CKPT_WIRE_DONE,
	CKPT_WIRE_FAILED,
	CKPT_WIRE_ARMED, /* may be left out if BATCH, DONE or FAILED follows within 3 s */
};

struct ckpt_wire_reply {
	uint32_t type;
	uint32_t serial;
	uint32_t op, nonce; /* GO */
	uint32_t triggers;  /* BATCH: as many as move it all if none is skipped; at most CKPT_PIECES of abi.h */
	uint32_t wait;	    /* BATCH: after each trigger, wait for MOVED */
	uint64_t done_pages, total_pages;
	uint64_t done_bytes, total_bytes;
	int32_t error; /* FAILED: an errno */
	uint32_t pad;
	char text[CKPT_TEXT_MAX]; /* FAILED: a sentence */
};

#endif /* EBPF_CKPT_WIRE_H */
