# Debian packages. Each target installs what is missing and says nothing when
# all is there. Included by the Makefile.

APT := DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0

# To build: runc is linked with libseccomp, statically.
PACKAGES_BUILD := gcc libc6-dev libseccomp-dev pkg-config git
# To run the demo: base images are made from Debian packages.
PACKAGES_DEMO := mmdebstrap busybox-static ca-certificates curl iproute2 nftables
# To test: namespaces and rules are looked at with the kernel's own tools, the
# store's page with a browser, faults with a file system on a loop device.
PACKAGES_TEST := nftables iproute2 util-linux procps conntrack openssl openssh-client chromium xz-utils zstd bzip2 python3-docker e2fsprogs btrfs-progs xfsprogs

# install_missing PACKAGES: dpkg is asked first, since asking apt takes seconds.
define install_missing
@missing=; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
if [ -n "$$missing" ]; then echo "installing$$missing"; apt-get update -qq && $(APT) $$missing >/dev/null; fi
endef

.PHONY: deps deps-build deps-demo deps-test deps-compat
deps: deps-build deps-demo deps-test ## install the Debian packages that building, the demo and the tests need

deps-build:
	$(call install_missing,$(PACKAGES_BUILD))

deps-demo: deps-build
	$(call install_missing,$(PACKAGES_DEMO))

deps-test: deps-build
	$(call install_missing,$(PACKAGES_TEST))
	@command -v docker >/dev/null || { echo "installing docker.io for its client"; $(APT) docker.io >/dev/null; }
	@$(MAKE) --no-print-directory deps-compat

# Clients that come from npm, for test/compat. Where node's own packages are
# installed npm is a part of nodejs, so the programs are asked for, not packages.
DOCKERODE := test/compat/dockerode
deps-compat:
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "installing nodejs npm"; apt-get update -qq; $(APT) nodejs npm >/dev/null; }
	@[ -x /usr/lib/postgresql/15/bin/postgres ] || { echo "installing postgresql-15 for its programs, without a server"; apt-get update -qq; \
		mkdir -p /etc/postgresql-common/createcluster.d && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/none.conf; $(APT) postgresql-15 >/dev/null; }
	@[ $(DOCKERODE)/node_modules/.package-lock.json -nt $(DOCKERODE)/package-lock.json ] || { echo "installing dockerode"; \
		cd $(DOCKERODE) && npm ci --ignore-scripts --omit=optional --no-audit --no-fund --silent; }
