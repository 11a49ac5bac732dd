/* config.h: what elfutils' configure would find out, for the one library of it that is compiled here: glibc 2.31 or newer, zlib, no zstd. */
#ifndef CKPT_LIBELF_CONFIG_H
#define CKPT_LIBELF_CONFIG_H

#define _GNU_SOURCE 1

#define HAVE_DECL_MEMPCPY 1
#define HAVE_DECL_MEMRCHR 1
#define HAVE_DECL_POWEROF2 1
#define HAVE_DECL_RAWMEMCHR 1
#define HAVE_DECL_REALLOCARRAY 1
#define HAVE_GCC_STRUCT 1
#define HAVE_MREMAP 1
#define HAVE_VISIBILITY 1
#define HAVE_ERROR_H 1
#define HAVE_ERR_H 1

#include <eu-config.h>

#endif
