/* SPDX-License-Identifier: MIT */
/*
 * sys.h: system calls without libc.
 *
 * While memory is rolled back, nothing of libc may run: its state (heap, locks, lazily bound symbols) changes under it. So the library makes all
 * its system calls itself; they return what the kernel does, a negative errno on failure.
 */
#ifndef CKPT_SYS_H
#define CKPT_SYS_H

#include <linux/futex.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#if defined(__x86_64__) && !defined(__ILP32__)
static inline long sys_call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
static inline long sys_call(long number, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
#else
#error "The library knows the system calls of x86-64 and arm64 only"
#endif

static inline uint32_t sys_getpid(void)
{
	return (uint32_t)sys_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

static inline uint32_t sys_gettid(void)
{
	return (uint32_t)sys_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

static inline long sys_close(int fd)
{
	return sys_call(SYS_close, fd, 0, 0, 0, 0, 0);
}

static inline uint64_t sys_now_ns(void)
{
	struct timespec now;

	sys_call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0, 0, 0);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* fd -1: only sleeps. Returns 1 if there is something, 0 if not, -EINTR. */
static inline long sys_poll(int fd, short events, uint64_t ns)
{
	struct pollfd wanted = {.fd = fd, .events = events};
	struct timespec limit = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};

	return sys_call(SYS_ppoll, (long)&wanted, 1, (long)&limit, 0, 0, 0);
}

static inline void sys_futex_wait(uint32_t *word, uint32_t value)
{
	sys_call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, (long)value, 0, 0, 0);
}

static inline void sys_futex_wake(uint32_t *word, int count)
{
	sys_call(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
}

static inline long sys_send(int fd, const void *message, size_t size)
{
	return sys_call(SYS_sendto, fd, (long)message, (long)size, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0);
}

/* Returns the length that the message was sent with, which may be more than `size`. */
static inline long sys_receive(int fd, void *message, size_t size)
{
	return sys_call(SYS_recvfrom, fd, (long)message, (long)size, MSG_DONTWAIT | MSG_TRUNC, 0, 0);
}

/* The two system calls of the protocol. The tag is wider than the argument it travels in: only a tracepoint sees all of it. */
static inline void sys_open_marker(const char *path, uint64_t tag)
{
	sys_call(SYS_openat, -1, (long)path, 0, (long)tag, 0, 0);
}

static inline void sys_trigger(const char *path, uint64_t tag)
{
#ifdef SYS_access
	sys_call(SYS_access, (long)path, (long)tag, 0, 0, 0, 0);
#else
	sys_call(SYS_faccessat, -1, (long)path, (long)tag, 0, 0, 0);
#endif
}

#endif /* CKPT_SYS_H */
