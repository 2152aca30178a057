// Holds the joined filter of join.c against libseccomp's own: reads rules, makes
// both, and runs both over every architecture, system call and telling argument.
//
// A rule is a line "ACTION NAME [INDEX OP VALUE VALUE2]...", numbers in hex.
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

scmp_filter_ctx __real_seccomp_init(uint32_t action);
int __real_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch);
int __real_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
int __real_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int nr, unsigned n, const struct scmp_arg_cmp *args);
int __real_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);

static uint64_t values[4096];
static size_t nvalues;

static void die(const char *what, int rc) {
	fprintf(stderr, "%s: %d\n", what, rc);
	exit(2);
}

static void interesting(uint64_t v) {
	static const uint64_t high[] = {0, 1ULL << 32, 1ULL << 63};
	for (int d = -1; d <= 1; d++)
		for (size_t h = 0; h < 3; h++)
			if (nvalues < sizeof(values) / sizeof(values[0]))
				values[nvalues++] = (v + d) ^ high[h];
}

struct code {
	struct sock_filter *at;
	size_t len;
};

static struct code take(int export(const scmp_filter_ctx, int), scmp_filter_ctx ctx) {
	struct code c;
	int fd = memfd_create("test", 0), rc = export(ctx, fd);
	if (rc != 0)
		die("export", rc);
	off_t size = lseek(fd, 0, SEEK_END);
	c.at = malloc(size);
	c.len = size / sizeof(*c.at);
	if (pread(fd, c.at, size, 0) != size)
		die("read back", -1);
	close(fd);
	return c;
}

static uint32_t run(const struct code *c, const struct seccomp_data *d) {
	uint32_t a = 0;
	for (size_t pc = 0; pc < c->len; pc++) {
		const struct sock_filter *f = &c->at[pc];
		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS: memcpy(&a, (const char *)d + f->k, sizeof(a)); break;
		case BPF_ALU | BPF_AND | BPF_K: a &= f->k; break;
		case BPF_JMP | BPF_JA: pc += f->k; break;
		case BPF_JMP | BPF_JEQ | BPF_K: pc += a == f->k ? f->jt : f->jf; break;
		case BPF_JMP | BPF_JGT | BPF_K: pc += a > f->k ? f->jt : f->jf; break;
		case BPF_JMP | BPF_JGE | BPF_K: pc += a >= f->k ? f->jt : f->jf; break;
		case BPF_JMP | BPF_JSET | BPF_K: pc += a & f->k ? f->jt : f->jf; break;
		case BPF_RET | BPF_K: return f->k;
		default: die("unknown instruction", f->code);
		}
	}
	die("program runs off its end", 0);
	return 0;
}

static unsigned long checks, differences;

static void same(const struct code *a, const struct code *b, const struct seccomp_data *d) {
	uint32_t ra = run(a, d), rb = run(b, d);
	checks++;
	if (ra != rb && differences++ < 20)
		printf("arch %x nr %x args %" PRIx64 " %" PRIx64 ": joined %x, libseccomp %x\n", d->arch, d->nr,
		       (uint64_t)d->args[0], (uint64_t)d->args[1], ra, rb);
}

static double cpu(void) {
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

int main(int argc, char **argv) {
	uint32_t fallback = strtoul(argv[1], NULL, 16);
	scmp_filter_ctx joined = seccomp_init(fallback), plain = __real_seccomp_init(fallback);
	char line[4096];
	double used[2] = {0}, t;

	interesting(0);
	for (int i = 2; i < argc; i++) {
		uint32_t arch = seccomp_arch_resolve_name(argv[i]);
		int a = seccomp_arch_add(joined, arch), b = __real_seccomp_arch_add(plain, arch);
		if (arch == 0 || a != b)
			die(argv[i], a);
		if (seccomp_arch_exist(joined, arch) != 0)
			die("architecture is there", -1);
	}
	if (seccomp_attr_set(joined, SCMP_FLTATR_CTL_OPTIMIZE, 2) != 0 || __real_seccomp_attr_set(plain, SCMP_FLTATR_CTL_OPTIMIZE, 2) != 0)
		die("optimize", -1);
	while (fgets(line, sizeof(line), stdin) != NULL) {
		struct scmp_arg_cmp args[6];
		unsigned n = 0;
		uint32_t action = strtoul(strtok(line, " \n"), NULL, 16);
		char *name = strtok(NULL, " \n"), *word;
		int nr = seccomp_syscall_resolve_name(name);
		if (nr == __NR_SCMP_ERROR)
			continue; // as runc does
		while ((word = strtok(NULL, " \n")) != NULL) {
			args[n].arg = strtoul(word, NULL, 16);
			args[n].op = strtoul(strtok(NULL, " \n"), NULL, 16);
			args[n].datum_a = strtoull(strtok(NULL, " \n"), NULL, 16);
			args[n].datum_b = strtoull(strtok(NULL, " \n"), NULL, 16);
			interesting(args[n].datum_a);
			interesting(args[n].datum_b);
			n++;
		}
		t = cpu();
		int a = seccomp_rule_add_array(joined, action, nr, n, args);
		used[0] += cpu() - t, t = cpu();
		int b = __real_seccomp_rule_add_array(plain, action, nr, n, args);
		used[1] += cpu() - t;
		if (a != b) {
			printf("rule for %s: joined %d, libseccomp %d\n", name, a, b);
			return 1;
		}
		if (a != 0 && a != -EEXIST)
			return 0; // both refuse: runc stops here
	}
	t = cpu();
	struct code a = take(seccomp_export_bpf, joined);
	used[0] += cpu() - t, t = cpu();
	struct code b = take(__real_seccomp_export_bpf, plain);
	used[1] += cpu() - t;

	static const uint32_t arches[] = {AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, AUDIT_ARCH_AARCH64, AUDIT_ARCH_ARM, 0, 0xffffffff};
	static const uint32_t bases[] = {0, 0x3fffff00, 0x40000000, 0x7fffff00, 0x80000000, 0xbfffff00, 0xc0000000, 0xfffffc00};
	for (size_t i = 0; i < sizeof(arches) / sizeof(arches[0]); i++)
		for (size_t j = 0; j < sizeof(bases) / sizeof(bases[0]); j++)
			for (uint32_t nr = 0; nr < 512; nr++) {
				struct seccomp_data d = {.arch = arches[i], .nr = bases[j] + nr};
				for (size_t v = 0; v < nvalues; v += i < 2 && j % 2 == 0 ? 1 : 5) {
					for (int k = 0; k < 6; k++)
						d.args[k] = values[v];
					same(&a, &b, &d);
					d.args[1] = values[(v * 7 + nr) % nvalues];
					d.args[2] = values[(v * 13 + nr) % nvalues];
					same(&a, &b, &d);
				}
			}
	printf("%lu decisions, %lu differences; %zu and %zu instructions; %.2f and %.2f ms\n", checks, differences, a.len, b.len, used[0], used[1]);
	seccomp_release(joined);
	return differences != 0;
}
