/* SPDX-License-Identifier: MIT */
/* note.c: see note.h. With a formatter of its own: that of libc may be in the middle of being rolled back. */
#include <stdarg.h>
#include <stddef.h>

#include "note.h"
#include "sys.h"

struct line {
	char *at, *end; /* room for the terminating zero is beyond `end` */
};

static void add(struct line *line, const char *text)
{
	while (*text && line->at < line->end)
		*line->at++ = *text++;
}

static void add_number(struct line *line, unsigned int number)
{
	char digits[12], *at = digits + sizeof(digits) - 1;

	*at = 0;
	do
		*--at = (char)('0' + number % 10);
	while (number /= 10);
	add(line, at);
}

static void add_all(struct line *line, const char *format, va_list values)
{
	for (; *format; format++) {
		if (*format != '%') {
			add(line, (const char[]){*format, 0});
		} else if (*++format == 's') {
			add(line, va_arg(values, const char *));
		} else {
			add_number(line, va_arg(values, unsigned int));
		}
	}
}

static struct ckpt_note *note_of(struct ckpt_kept *kept, uint32_t tid)
{
	for (uint32_t i = 0; i < CKPT_NOTES; i++) {
		if (__atomic_load_n(&kept->notes[i].tid, __ATOMIC_RELAXED) == tid)
			return &kept->notes[i];
	}
	return NULL;
}

static struct ckpt_note *oldest(struct ckpt_kept *kept)
{
	struct ckpt_note *note = &kept->notes[0];

	for (uint32_t i = 1; i < CKPT_NOTES; i++) {
		if (kept->notes[i].stamp < note->stamp)
			note = &kept->notes[i];
	}
	return note;
}

int ckpt_fail(struct ckpt_kept *kept, int error, const char *format, ...)
{
	uint32_t me = sys_gettid();
	struct ckpt_note *note = note_of(kept, me);
	struct line line;
	va_list values;

	if (!note)
		note = note_of(kept, 0);
	if (!note)
		note = oldest(kept);
	note->stamp = ++kept->stamp;
	__atomic_store_n(&note->tid, me, __ATOMIC_RELAXED);

	line.at = note->text;
	line.end = note->text + sizeof(note->text) - 1;
	va_start(values, format);
	add_all(&line, format, values);
	va_end(values);
	*line.at = 0;
	return error;
}

void ckpt_succeed(struct ckpt_kept *kept)
{
	struct ckpt_note *note = note_of(kept, sys_gettid());

	if (note)
		__atomic_store_n(&note->tid, 0, __ATOMIC_RELAXED);
}

const char *ckpt_find_note(struct ckpt_kept *kept)
{
	const struct ckpt_note *note = note_of(kept, sys_gettid());

	return note ? note->text : "";
}
