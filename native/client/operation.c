/* SPDX-License-Identifier: MIT */
/*
 * operation.c: see operation.h.
 *
 * From the first trigger of a recover to its end all memory changes under us but stacks and what is kept. Nothing here may use anything else, or
 * call libc.
 */
#include <errno.h>
#include <linux/types.h>

#include "../../bpf/serve_abi.h"
#include "connection.h"
#include "note.h"
#include "operation.h"
#include "sys.h"

#define PARTS	    (CKPT_PART_HEAP | CKPT_PART_DATA | CKPT_PART_ANONYMOUS | CKPT_PART_SHARED | CKPT_PART_SHARED_ALL)
#define KNOWN	    sizeof(struct ckpt_options)
/* Whoever says that his options are larger than this says something else. */
#define OPTIONS_MAX 4096u

/*
 * Silence is counted in waits, not read from a clock: a process that was stopped for a minute has not waited for one. A message that says nothing new
 * counts a little, so that a daemon that repeats itself is not listened to for ever.
 */
#define WAIT_US	      (CKPT_AGAIN_MS * 1000u)
#define REPEATED_US   100u
#define UNSEEN_MAX_US 3000000u
#define SILENT_MAX_US 30000000u

enum stage {
	ASKED,	 /* GO is awaited */
	ARMING,	 /* the marker is opened until somebody sees it */
	ARMED,	 /* the daemon plans */
	MOVING,	 /* triggers move it */
	LEAVING, /* CANCEL was sent: what comes first, FAILED or DONE, ends it */
	ENDED,
};

struct operation {
	struct ckpt_kept *kept;
	enum stage stage;
	enum ckpt_phase phase;
	bool simple; /* ends without GO */
	ckpt_progress_fn progress;
	void *data;
	uint64_t done_pages, done_bytes; /* as last told */
	uint64_t tag;
	uint32_t due;	    /* system calls to be made at once */
	uint32_t left;	    /* triggers of the batch that come one by one */
	bool wait;	    /* ... because of this */
	bool triggered;	    /* the first one was made */
	uint32_t silent_us; /* since something new was heard */
};

static int fail_as_nonsense(struct ckpt_kept *kept)
{
	uint32_t type = kept->reply.type;

	ckpt_disconnect(kept);
	return ckpt_fail(kept, EIO, "The daemon at %s sent a message that makes no sense here (type %u); the connection is closed",
			 kept->path, type);
}

/* Makes the system calls that are due. */
static void act(struct operation *operation)
{
	struct ckpt_kept *kept = operation->kept;
	const char *path = operation->stage == ARMING ? kept->marker[operation->phase] : kept->complete[operation->phase];

	for (; operation->due; operation->due--) {
		/* it may have been swapped out */
		(void)*(const volatile char *)path;
		if (operation->stage == ARMING) {
			sys_open_marker(path, operation->tag);
		} else {
			operation->triggered = true;
			sys_trigger(path, operation->tag);
		}
	}
}

static void next_of_batch(struct operation *operation)
{
	if (operation->left) {
		operation->left--;
		operation->due = 1;
	}
}

static int leave(struct operation *operation)
{
	operation->stage = LEAVING;
	operation->due = 0;
	operation->kept->request.type = CKPT_WIRE_CANCEL;
	return ckpt_send(operation->kept);
}

/* Notes how far it is; *further: than before. Asks the callback, which may end it. */
static int advance(struct operation *operation, bool *further)
{
	const struct ckpt_wire_reply *reply = &operation->kept->reply;
	struct ckpt_progress progress = {
		.phase = operation->phase,
		.done_pages = reply->done_pages,
		.total_pages = reply->total_pages,
		.done_bytes = reply->done_bytes,
		.total_bytes = reply->total_bytes,
	};

	*further = reply->done_bytes > operation->done_bytes || reply->done_pages > operation->done_pages;
	if (!*further)
		return 0;
	operation->done_bytes = reply->done_bytes;
	operation->done_pages = reply->done_pages;
	if (operation->progress && operation->progress(&progress, operation->data) && operation->stage != ENDED)
		return leave(operation);
	return 0;
}

static int take_go(struct operation *operation)
{
	const struct ckpt_wire_reply *reply = &operation->kept->reply;

	if (operation->stage != ASKED || operation->simple || reply->op >= CKPT_OP_BARE)
		return fail_as_nonsense(operation->kept);
	operation->tag = CKPT_TAG(reply->nonce, 0, reply->op);
	operation->stage = ARMING;
	operation->due = 1;
	return 0;
}

static int take_armed(struct operation *operation)
{
	if (operation->stage != ARMING)
		return fail_as_nonsense(operation->kept);
	operation->stage = ARMED;
	return 0;
}

static int take_batch(struct operation *operation, bool *further)
{
	const struct ckpt_wire_reply *reply = &operation->kept->reply;
	bool first = operation->stage != MOVING;
	int error;

	if (operation->stage == ASKED || reply->triggers > CKPT_PIECES)
		return fail_as_nonsense(operation->kept);
	operation->stage = MOVING;
	operation->wait = reply->wait;
	operation->left = operation->wait ? reply->triggers : 0;
	operation->due = operation->wait ? 0 : reply->triggers;
	next_of_batch(operation);
	error = advance(operation, further);
	*further |= first;
	return error;
}

static int take_moved(struct operation *operation, bool *further)
{
	if (operation->stage != MOVING)
		return fail_as_nonsense(operation->kept);
	next_of_batch(operation);
	return advance(operation, further);
}

static int take_done(struct operation *operation, bool *further)
{
	if (operation->stage == ASKED && !operation->simple)
		return fail_as_nonsense(operation->kept);
	operation->stage = ENDED;
	return advance(operation, further);
}

static int take_failed(struct operation *operation)
{
	struct ckpt_kept *kept = operation->kept;

	if (kept->reply.error <= 0 || kept->reply.error >= 4096)
		return fail_as_nonsense(kept);
	operation->stage = ENDED;
	return ckpt_fail(kept, kept->reply.error, "%s", kept->reply.text);
}

/* The message that came; *further: it says something new. */
static int take(struct operation *operation, bool *further)
{
	const struct ckpt_kept *kept = operation->kept;

	*further = false;
	if (kept->reply.serial != kept->request.serial)
		return 0;
	if (kept->reply.type == CKPT_WIRE_FAILED)
		return take_failed(operation);
	if (kept->reply.type == CKPT_WIRE_DONE && operation->stage == LEAVING) {
		operation->stage = ENDED;
		return 0;
	}
	if (operation->stage == LEAVING)
		return 0;
	*further = true;
	switch (kept->reply.type) {
	case CKPT_WIRE_GO:
		return take_go(operation);
	case CKPT_WIRE_ARMED:
		return take_armed(operation);
	case CKPT_WIRE_BATCH:
		return take_batch(operation, further);
	case CKPT_WIRE_MOVED:
		return take_moved(operation, further);
	default:
		return take_done(operation, further);
	}
}

/* Nothing came for CKPT_AGAIN_MS, or nothing new: the system call may have been skipped. */
static int endure(struct operation *operation, bool repeated)
{
	operation->silent_us += repeated ? REPEATED_US : WAIT_US;
	if (!repeated && (operation->stage == ARMING || operation->stage == MOVING))
		operation->due = 1;
	if (operation->stage == ARMING && operation->silent_us >= UNSEEN_MAX_US)
		return ckpt_fail(operation->kept, EIO,
				 "The daemon does not see this process open its marker: are its BPF programs still attached, and are "
				 "system calls of this process filtered (`ebpf-ckpt doctor` looks)");
	if (operation->silent_us >= SILENT_MAX_US)
		return ckpt_fail(operation->kept, EIO, "Nothing new was heard of the daemon for 30 seconds: is it stopped");
	return 0;
}

static int step(struct operation *operation)
{
	bool got, further;
	int error;

	act(operation);
	error = ckpt_receive(operation->kept, WAIT_US * 1000u, &got);
	if (error)
		return error;
	if (!got)
		return endure(operation, false);
	error = take(operation, &further);
	if (error || operation->stage == ENDED)
		return error;
	if (!further)
		return endure(operation, true);
	operation->silent_us = 0;
	return 0;
}

/* The daemon is told, if it is there, and not waited for: what it still says carries an old number. */
static void abandon(struct operation *operation)
{
	struct ckpt_kept *kept = operation->kept;

	if (!kept->connected || operation->stage == LEAVING)
		return;
	kept->request.type = CKPT_WIRE_CANCEL;
	sys_send(kept->socket, &kept->request, sizeof(kept->request));
}

static int go_through(struct operation *operation)
{
	int error = ckpt_send(operation->kept);

	while (!error && operation->stage != ENDED)
		error = step(operation);
	if (operation->phase == CKPT_RECOVERING && !error)
		operation->kept->half = false;
	if (!error || operation->stage == ENDED)
		return error;

	abandon(operation);
	if (operation->phase != CKPT_RECOVERING || !operation->triggered)
		return error;
	operation->kept->half = true;
	if (error == ECONNRESET)
		ckpt_fail(operation->kept, error,
			  "The daemon died in the middle of a recover: memory is half recovered, and what was saved is lost");
	return error;
}

/* Options are copied byte by byte: the program's may be of another version of the header. */
static int read_options(struct ckpt_kept *kept, const struct ckpt_options *options, struct ckpt_options *known)
{
	const unsigned char *from = (const unsigned char *)options;
	unsigned char *to = (unsigned char *)known;

	for (size_t i = 0; i < KNOWN; i++)
		to[i] = 0;
	if (!options)
		return 0;
	if (options->size < sizeof(options->size) || options->size > OPTIONS_MAX)
		return ckpt_fail(kept, EINVAL, "Expected options.size to be sizeof(struct ckpt_options)");
	for (size_t i = 0; i < options->size; i++) {
		if (i < KNOWN)
			to[i] = from[i];
		else if (from[i])
			return ckpt_fail(kept, EINVAL, "The options ask for something that this version of the library does not know");
	}
	if (known->parts & ~PARTS)
		return ckpt_fail(kept, EINVAL, "options.parts has bits that are none of CKPT_PART_...");
	return 0;
}

static int write_request(struct ckpt_kept *kept, uint32_t type, const struct ckpt_options *options)
{
	struct ckpt_wire_request *request = &kept->request;
	const char *name = options->name ? options->name : "";
	size_t length = 0;

	while (length < CKPT_NAME_MAX + 1 && name[length])
		length++;
	if (length > CKPT_NAME_MAX)
		return ckpt_fail(kept, EINVAL, "The name of a context is longer than %u bytes", (unsigned int)CKPT_NAME_MAX);
	for (size_t i = 0; i < sizeof(request->name); i++)
		request->name[i] = i < length ? name[i] : 0;

	request->version = CKPT_WIRE_VERSION;
	request->type = type;
	request->serial++;
	request->parts = type == CKPT_WIRE_SAVE ? options->parts : 0;
	request->pages_per_trigger = options->pages_per_trigger;
	request->report = options->progress != NULL;
	for (uint32_t i = 0; i < CKPT_KEEPS; i++)
		request->keep[i].start = request->keep[i].end = 0;
	if (type == CKPT_WIRE_SAVE)
		request->keep[0] = ckpt_kept_range(kept);
	return 0;
}

int ckpt_perform(struct ckpt_kept *kept, uint32_t type, const struct ckpt_options *options)
{
	struct ckpt_options known;
	struct operation operation;
	int error = read_options(kept, options, &known);

	if (!error)
		error = write_request(kept, type, &known);
	if (error)
		return error;
	if (type == CKPT_WIRE_SAVE && kept->half)
		return ckpt_fail(kept, ENOTRECOVERABLE,
				 "Memory is half recovered: a recover ended in the middle. Recover it whole, or end");
	error = ckpt_connect(kept);
	if (error)
		return error;

	operation = (struct operation){
		.kept = kept,
		.phase = type == CKPT_WIRE_RECOVER ? CKPT_RECOVERING : CKPT_SAVING,
		.simple = type == CKPT_WIRE_FORGET,
		.progress = known.progress,
		.data = known.data,
	};
	return go_through(&operation);
}
