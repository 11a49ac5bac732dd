/* SPDX-License-Identifier: MIT */
/* ebpf_ckpt.c: the public functions. */
#include <errno.h>

#pragma GCC visibility push(default)
#include "ebpf_ckpt.h"
#pragma GCC visibility pop

#include "kept.h"
#include "note.h"
#include "operation.h"

static int call(uint32_t type, const struct ckpt_options *options)
{
	/* found now, from where it is written at the end: finding it may need libc */
	int *volatile number = &errno;
	struct ckpt_kept *kept;
	int error = ckpt_enter(&kept);

	if (!error) {
		error = ckpt_perform(kept, type, options);
		if (!error)
			ckpt_succeed(kept);
		ckpt_leave(kept);
	}
	if (!error)
		return 0;
	*number = error;
	return -1;
}

int savecontext_with(const struct ckpt_options *options)
{
	return call(CKPT_WIRE_SAVE, options);
}

int recovercontext_with(const struct ckpt_options *options)
{
	return call(CKPT_WIRE_RECOVER, options);
}

int savecontext(void)
{
	return savecontext_with(NULL);
}

int recovercontext(void)
{
	return recovercontext_with(NULL);
}

int ckpt_forget(const char *name)
{
	const struct ckpt_options options = {.size = sizeof(options), .name = name};

	return call(CKPT_WIRE_FORGET, &options);
}

const char *ckpt_strerror(void)
{
	return ckpt_noted();
}

const char *ckpt_version(void)
{
	return CKPT_VERSION;
}
