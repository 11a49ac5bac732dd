/* SPDX-License-Identifier: MIT */
/* connection.c: see connection.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/un.h>

#include "connection.h"
#include "note.h"
#include "sys.h"

/* A daemon whose queue of connections or messages is full is stopped or very busy. */
#define WAIT_NS 10000000u
#define WAITS	3000u /* 30 s */

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

/* 0: not a socket. */
static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	uint32_t size = sizeof(cookie);

	if (sys_call(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, (long)&cookie, (long)&size, 0) < 0)
		return 0;
	return cookie;
}

void ckpt_disconnect(struct ckpt_kept *kept)
{
	if (kept->connected && cookie_of(kept->socket) == kept->cookie)
		sys_close(kept->socket);
	kept->connected = false;
}

void ckpt_drop_inherited(struct ckpt_kept *kept)
{
	ckpt_disconnect(kept);
}

static int find_path(struct ckpt_kept *kept)
{
	const char *path = secure_getenv(CKPT_SOCKET_ENV);
	size_t length = 0;

	if (!path || !*path)
		path = CKPT_SOCKET;
	while (path[length] && length < sizeof(kept->path))
		length++;
	if (length == sizeof(kept->path))
		return ckpt_fail(kept, ENOTCONN, "The path in " CKPT_SOCKET_ENV " is longer than that of a socket may be, %u bytes",
				 (unsigned int)sizeof(kept->path) - 1);
	for (size_t i = 0; i <= length; i++)
		kept->path[i] = path[i];
	return 0;
}

static long connect_to(int fd, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	long rc;

	for (size_t i = 0; path[i]; i++)
		address.sun_path[i] = path[i];
	for (unsigned int waits = 0;; waits++) {
		rc = sys_call(SYS_connect, fd, (long)&address, sizeof(address), 0, 0, 0);
		if ((rc != -EAGAIN && rc != -EINTR) || waits == WAITS)
			return rc;
		sys_poll(-1, 0, WAIT_NS);
	}
}

static int fail_to_connect(struct ckpt_kept *kept, int error)
{
	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
	case ENOTDIR:
		return ckpt_fail(kept, ENOTCONN, "No daemon serves at %s: start one with `ebpf-ckpt serve`, or name its socket in %s",
				 kept->path, CKPT_SOCKET_ENV);
	case EACCES:
	case EPERM:
		return ckpt_fail(kept, EPERM, "This user may not connect to the daemon's socket %s", kept->path);
	case EAGAIN:
		return ckpt_fail(kept, ENOTCONN, "The daemon at %s takes no connections: is it stopped", kept->path);
	case EPROTOTYPE:
		return ckpt_fail(kept, ENOTCONN, "The socket %s is not that of an ebpf-ckpt daemon", kept->path);
	default:
		return ckpt_fail(kept, ENOTCONN, "Connecting to %s failed with errno %u", kept->path, (unsigned int)error);
	}
}

int ckpt_connect(struct ckpt_kept *kept)
{
	long fd, rc;
	int error;

	if (kept->connected && cookie_of(kept->socket) == kept->cookie)
		return 0;
	kept->connected = false;
	error = find_path(kept);
	if (error)
		return error;

	fd = sys_call(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0, 0, 0);
	if (fd < 0)
		return ckpt_fail(kept, EIO, "No socket can be made: errno %u", (unsigned int)-fd);
	rc = connect_to((int)fd, kept->path);
	if (rc < 0) {
		sys_close((int)fd);
		return fail_to_connect(kept, (int)-rc);
	}
	kept->socket = (int)fd;
	kept->cookie = cookie_of((int)fd);
	kept->connected = true;
	return 0;
}

static int fail_as_reset(struct ckpt_kept *kept)
{
	ckpt_disconnect(kept);
	return ckpt_fail(kept, ECONNRESET, "The daemon at %s died, or closed the connection; what it held of this process is lost",
			 kept->path);
}

static int fail_as_closed(struct ckpt_kept *kept, long rc)
{
	/* whoever has that number now, it is not ours to close */
	kept->connected = false;
	return ckpt_fail(kept, ECONNRESET, "The program closed the library's connection (errno %u); what the daemon held is lost",
			 (unsigned int)-rc);
}

static int fail_to_talk(struct ckpt_kept *kept, long rc)
{
	switch (-rc) {
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
	case ECONNREFUSED:
		return fail_as_reset(kept);
	case EBADF:
	case ENOTSOCK:
		return fail_as_closed(kept, rc);
	default:
		ckpt_disconnect(kept);
		return ckpt_fail(kept, EIO, "Talking to the daemon failed with errno %u; the connection is closed", (unsigned int)-rc);
	}
}

int ckpt_send(struct ckpt_kept *kept)
{
	long rc;

	for (unsigned int waits = 0;; waits++) {
		rc = sys_send(kept->socket, &kept->request, sizeof(kept->request));
		if (rc == (long)sizeof(kept->request))
			return 0;
		if (rc != -EAGAIN && rc != -EINTR && rc != -ENOBUFS)
			return fail_to_talk(kept, rc);
		if (waits == WAITS)
			return ckpt_fail(kept, EIO, "The daemon has not read its messages for 30 seconds: is it stopped");
		sys_poll(-1, 0, WAIT_NS);
	}
}

static bool makes_sense(struct ckpt_wire_reply *reply, long size)
{
	if (size != (long)sizeof(*reply))
		return false;
	reply->text[sizeof(reply->text) - 1] = 0;
	return reply->type >= CKPT_WIRE_GO && reply->type <= CKPT_WIRE_ARMED;
}

int ckpt_receive(struct ckpt_kept *kept, uint64_t ns, bool *got)
{
	uint64_t until = 0, now;
	long rc;

	*got = false;
	for (;;) {
		rc = sys_receive(kept->socket, &kept->reply, sizeof(kept->reply));
		if (rc == 0)
			return fail_as_reset(kept);
		if (rc > 0)
			break;
		if (rc != -EAGAIN && rc != -EINTR)
			return fail_to_talk(kept, rc);
		/* a signal that comes again and again must not make this longer */
		now = sys_now_ns();
		if (!until)
			until = now + ns;
		if (now >= until)
			return 0;
		sys_poll(kept->socket, POLLIN, until - now);
	}
	if (!makes_sense(&kept->reply, rc)) {
		ckpt_disconnect(kept);
		return ckpt_fail(kept, EIO, "What answers at %s is no ebpf-ckpt daemon of this version: its message makes no sense",
				 kept->path);
	}
	*got = true;
	return 0;
}
