// Linked into runc (build/binaries.mk) in front of libseccomp.
//
// libseccomp's work on a filter grows with the square of its size, and a filter
// for x86_64 usually has two other architectures in it: 25 ms of the start of
// each container and of each exec, two thirds of what runc takes for them. This
// keeps one filter for each architecture and joins what libseccomp makes of them
// by a few instructions that choose by architecture. What a filter decides is
// libseccomp's work alone; join_test.c holds both against each other.
//
// The linker's --wrap sends calls of seccomp_X to __wrap_seccomp_X here, and
// __real_seccomp_X to libseccomp.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define X32_BIT 0x40000000U

scmp_filter_ctx __real_seccomp_init(uint32_t action);
void __real_seccomp_release(scmp_filter_ctx ctx);
int __real_seccomp_reset(scmp_filter_ctx ctx, uint32_t action);
int __real_seccomp_merge(scmp_filter_ctx dst, scmp_filter_ctx src);
int __real_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch);
int __real_seccomp_arch_exist(const scmp_filter_ctx ctx, uint32_t arch);
int __real_seccomp_arch_remove(scmp_filter_ctx ctx, uint32_t arch);
int __real_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
int __real_seccomp_syscall_priority(scmp_filter_ctx ctx, int nr, uint8_t priority);
int __real_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int nr, unsigned n, const struct scmp_arg_cmp *args);
int __real_seccomp_rule_add_exact_array(scmp_filter_ctx ctx, uint32_t action, int nr, unsigned n, const struct scmp_arg_cmp *args);
int __real_seccomp_load(scmp_filter_ctx ctx);
int __real_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);
int __real_seccomp_export_pfc(const scmp_filter_ctx ctx, int fd);

// part is the filter of one architecture beside the native one.
struct part {
	scmp_filter_ctx ctx;
	uint32_t arch;
	struct part *next;
};

// whole is what the caller sees as one filter. Its own ctx is the key and holds
// the native architecture.
struct whole {
	scmp_filter_ctx ctx;
	uint32_t action;
	int rules; // there are some: an architecture that comes now would not have them
	struct part *parts;
	struct whole *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards wholes and below
static struct whole *wholes;

static struct whole *find(const scmp_filter_ctx ctx) {
	struct whole *w;
	for (w = wholes; w != NULL && w->ctx != ctx; w = w->next)
		;
	return w;
}

static void drop_parts(struct whole *w) {
	while (w->parts != NULL) {
		struct part *p = w->parts;
		w->parts = p->next;
		__real_seccomp_release(p->ctx);
		free(p);
	}
}

scmp_filter_ctx __wrap_seccomp_init(uint32_t action) {
	scmp_filter_ctx ctx = __real_seccomp_init(action);
	struct whole *w = ctx == NULL ? NULL : calloc(1, sizeof(*w));
	if (w == NULL)
		return ctx; // without a record it is libseccomp's alone
	w->ctx = ctx;
	w->action = action;
	pthread_mutex_lock(&lock);
	w->next = wholes;
	wholes = w;
	pthread_mutex_unlock(&lock);
	return ctx;
}

void __wrap_seccomp_release(scmp_filter_ctx ctx) {
	struct whole **at, *w;
	pthread_mutex_lock(&lock);
	for (at = &wholes; (w = *at) != NULL; at = &w->next) {
		if (w->ctx == ctx) {
			*at = w->next;
			drop_parts(w);
			free(w);
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	__real_seccomp_release(ctx);
}

int __wrap_seccomp_reset(scmp_filter_ctx ctx, uint32_t action) {
	struct whole *w;
	int rc = __real_seccomp_reset(ctx, action);
	pthread_mutex_lock(&lock);
	if (rc == 0 && (w = find(ctx)) != NULL) {
		drop_parts(w);
		w->action = action;
		w->rules = 0;
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

// separate tells whether an architecture can have a filter of its own.
static int separate(const struct whole *w, uint32_t arch) {
	uint32_t native = seccomp_arch_native();
	if (w == NULL || w->rules || arch == SCMP_ARCH_NATIVE || arch == native)
		return 0;
	if (__real_seccomp_arch_exist(w->ctx, native) != 0)
		return 0;
	return arch != SCMP_ARCH_X32 || native == SCMP_ARCH_X86_64;
}

// add_part makes a filter with the attributes that the whole has by now.
static int add_part(struct whole *w, uint32_t arch) {
	// Those that change the program; the others are how it is loaded.
	static const enum scmp_filter_attr shape[] = {SCMP_FLTATR_ACT_BADARCH, SCMP_FLTATR_API_TSKIP, SCMP_FLTATR_CTL_OPTIMIZE};
	struct part **end, *p;
	size_t i;
	int rc;

	for (end = &w->parts; *end != NULL; end = &(*end)->next)
		if ((*end)->arch == arch)
			return -EEXIST;
	if ((p = calloc(1, sizeof(*p))) == NULL)
		return -ENOMEM;
	p->arch = arch;
	if ((p->ctx = __real_seccomp_init(w->action)) == NULL) {
		free(p);
		return -ENOMEM;
	}
	rc = __real_seccomp_arch_add(p->ctx, arch);
	if (rc == 0)
		rc = __real_seccomp_arch_remove(p->ctx, seccomp_arch_native());
	for (i = 0; rc == 0 && i < sizeof(shape) / sizeof(shape[0]); i++) {
		uint32_t value;
		if (seccomp_attr_get(w->ctx, shape[i], &value) == 0)
			rc = __real_seccomp_attr_set(p->ctx, shape[i], value);
	}
	if (rc != 0) {
		__real_seccomp_release(p->ctx);
		free(p);
		return rc;
	}
	*end = p;
	return 0;
}

int __wrap_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch) {
	int rc;
	pthread_mutex_lock(&lock);
	struct whole *w = find(ctx);
	rc = separate(w, arch) ? add_part(w, arch) : __real_seccomp_arch_add(ctx, arch);
	pthread_mutex_unlock(&lock);
	return rc;
}

int __wrap_seccomp_arch_exist(const scmp_filter_ctx ctx, uint32_t arch) {
	int rc = __real_seccomp_arch_exist(ctx, arch);
	struct part *p;
	pthread_mutex_lock(&lock);
	struct whole *w = find(ctx);
	for (p = w == NULL ? NULL : w->parts; rc != 0 && p != NULL; p = p->next)
		if (p->arch == arch)
			rc = 0;
	pthread_mutex_unlock(&lock);
	return rc;
}

int __wrap_seccomp_arch_remove(scmp_filter_ctx ctx, uint32_t arch) {
	struct part **at, *p;
	int rc = -EEXIST, found = 0;
	pthread_mutex_lock(&lock);
	struct whole *w = find(ctx);
	for (at = w == NULL ? NULL : &w->parts; at != NULL && (p = *at) != NULL; at = &p->next) {
		if (p->arch == arch) {
			*at = p->next;
			__real_seccomp_release(p->ctx);
			free(p);
			found = 1;
			rc = 0;
			break;
		}
	}
	if (!found)
		// The parts are reached by way of the native filter, so that one stays.
		rc = w != NULL && w->parts != NULL ? -EOPNOTSUPP : __real_seccomp_arch_remove(ctx, arch);
	pthread_mutex_unlock(&lock);
	return rc;
}

int __wrap_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value) {
	int rc = __real_seccomp_attr_set(ctx, attr, value);
	struct part *p;
	pthread_mutex_lock(&lock);
	struct whole *w = find(ctx);
	for (p = w == NULL ? NULL : w->parts; rc == 0 && p != NULL; p = p->next)
		rc = __real_seccomp_attr_set(p->ctx, attr, value);
	pthread_mutex_unlock(&lock);
	return rc;
}

int __wrap_seccomp_syscall_priority(scmp_filter_ctx ctx, int nr, uint8_t priority) {
	int rc = __real_seccomp_syscall_priority(ctx, nr, priority);
	struct part *p;
	pthread_mutex_lock(&lock);
	struct whole *w = find(ctx);
	for (p = w == NULL ? NULL : w->parts; rc == 0 && p != NULL; p = p->next)
		rc = __real_seccomp_syscall_priority(p->ctx, nr, priority);
	pthread_mutex_unlock(&lock);
	return rc;
}

typedef int adder(scmp_filter_ctx, uint32_t, int, unsigned, const struct scmp_arg_cmp *);

static int add_rule(adder *add, scmp_filter_ctx ctx, uint32_t action, int nr, unsigned n, const struct scmp_arg_cmp *args) {
	struct part *p;
	pthread_mutex_lock(&lock);
	struct whole *w = find(ctx);
	if (w != NULL)
		w->rules = 1;
	int rc = add(ctx, action, nr, n, args);
	for (p = w == NULL ? NULL : w->parts; rc == 0 && p != NULL; p = p->next)
		rc = add(p->ctx, action, nr, n, args);
	pthread_mutex_unlock(&lock);
	return rc;
}

int __wrap_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int nr, unsigned n, const struct scmp_arg_cmp *args) {
	return add_rule(__real_seccomp_rule_add_array, ctx, action, nr, n, args);
}

int __wrap_seccomp_rule_add_exact_array(scmp_filter_ctx ctx, uint32_t action, int nr, unsigned n, const struct scmp_arg_cmp *args) {
	return add_rule(__real_seccomp_rule_add_exact_array, ctx, action, nr, n, args);
}

// What would see the native part alone says that it cannot.
static int refuse_parts(const scmp_filter_ctx ctx) {
	pthread_mutex_lock(&lock);
	struct whole *w = find(ctx);
	int rc = w != NULL && w->parts != NULL ? -EOPNOTSUPP : 0;
	pthread_mutex_unlock(&lock);
	return rc;
}

int __wrap_seccomp_load(scmp_filter_ctx ctx) {
	int rc = refuse_parts(ctx);
	return rc != 0 ? rc : __real_seccomp_load(ctx);
}

int __wrap_seccomp_export_pfc(const scmp_filter_ctx ctx, int fd) {
	int rc = refuse_parts(ctx);
	return rc != 0 ? rc : __real_seccomp_export_pfc(ctx, fd);
}

int __wrap_seccomp_merge(scmp_filter_ctx dst, scmp_filter_ctx src) {
	int rc = refuse_parts(dst);
	if (rc == 0)
		rc = refuse_parts(src);
	return rc != 0 ? rc : __real_seccomp_merge(dst, src);
}

// program is what libseccomp made of one filter.
struct program {
	struct sock_filter *code;
	size_t len;
};

static int compile(scmp_filter_ctx ctx, struct program *out) {
	struct stat st;
	size_t have = 0;
	int fd = memfd_create("seccomp", MFD_CLOEXEC), rc;
	if (fd < 0)
		return -errno;
	rc = __real_seccomp_export_bpf(ctx, fd);
	if (rc == 0 && fstat(fd, &st) != 0)
		rc = -errno;
	if (rc == 0 && (st.st_size == 0 || st.st_size % sizeof(struct sock_filter) != 0))
		rc = -EFAULT;
	if (rc == 0 && (out->code = malloc(st.st_size)) == NULL)
		rc = -ENOMEM;
	while (rc == 0 && have < (size_t)st.st_size) {
		ssize_t n = pread(fd, (char *)out->code + have, st.st_size - have, have);
		if (n > 0)
			have += n;
		else if (n == 0)
			rc = -EFAULT;
		else if (errno != EINTR)
			rc = -errno;
	}
	if (rc == 0)
		out->len = st.st_size / sizeof(struct sock_filter);
	close(fd);
	return rc;
}

static int write_all(int fd, const void *data, size_t len) {
	const char *at = data;
	while (len > 0) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len -= n;
	}
	return 0;
}

enum { MAX_PARTS = 16, MAX_CHOICE = 5 + 2 * MAX_PARTS };

// choose writes the instructions that go to a part's program; past them lies the
// native one, and the parts' follow in order.
static size_t choose(const struct whole *w, const struct program *native, const struct program *progs, struct sock_filter *out) {
	size_t len = 1, total, n = 0, i;
	const struct part *p;

	for (p = w->parts; p != NULL; p = p->next)
		len += p->arch == SCMP_ARCH_X32 ? 4 : 2;
	total = len + native->len; // where the next part begins
	out[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	// x32 has the architecture of x86_64. It is asked for last: to look for its
	// mark the number is loaded instead.
	for (p = w->parts, i = 0; p != NULL; total += progs[i++].len, p = p->next) {
		if (p->arch == SCMP_ARCH_X32)
			continue;
		out[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, p->arch, 0, 1);
		out[n] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, total - n - 1);
		n++;
	}
	total = len + native->len;
	for (p = w->parts, i = 0; p != NULL; total += progs[i++].len, p = p->next) {
		if (p->arch != SCMP_ARCH_X32)
			continue;
		out[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3);
		out[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
		out[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
		out[n] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, total - n - 1);
		n++;
	}
	return n;
}

int __wrap_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd) {
	struct program native = {0}, progs[MAX_PARTS] = {0};
	struct sock_filter choice[MAX_CHOICE];
	size_t parts = 0, total, n, i;
	struct part *p;
	int rc;

	pthread_mutex_lock(&lock);
	struct whole *w = find(ctx);
	if (w == NULL || w->parts == NULL) {
		rc = __real_seccomp_export_bpf(ctx, fd);
		goto out;
	}
	rc = compile(ctx, &native);
	for (p = w->parts; rc == 0 && p != NULL; p = p->next)
		rc = parts < MAX_PARTS ? compile(p->ctx, &progs[parts++]) : -E2BIG;
	if (rc != 0)
		goto out;
	n = choose(w, &native, progs, choice);
	total = n + native.len;
	for (i = 0; i < parts; i++)
		total += progs[i].len;
	if (total > BPF_MAXINSNS) {
		rc = -E2BIG;
		goto out;
	}
	rc = write_all(fd, choice, n * sizeof(choice[0]));
	if (rc == 0)
		rc = write_all(fd, native.code, native.len * sizeof(choice[0]));
	for (i = 0; rc == 0 && i < parts; i++)
		rc = write_all(fd, progs[i].code, progs[i].len * sizeof(choice[0]));
out:
	pthread_mutex_unlock(&lock);
	free(native.code);
	for (i = 0; i < MAX_PARTS; i++)
		free(progs[i].code);
	return rc;
}
