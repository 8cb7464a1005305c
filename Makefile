# Thin: the work is in scripts/ and in the crates.

PREFIX  ?= /usr/local
CNI_BIN ?= /opt/cni/bin
DESTDIR ?=

.PHONY: help build deb demo demo-single test check bench bench-bgp bench-cni bench-ctl bench-dataplane bench-ipam soak-bgp storm traffic image sbom install test-fresh reproducible test-image test-skew test-vm test-systemd

help:
	@echo 'make demo            three hosts, a router, etcd: what Margay does, step by step (seconds, after the build)'
	@echo 'make demo HOSTS=1    the short form: one host, no etcd, no router (also: make demo-single)'
	@echo 'make demo KEEP=1     leaves the lab up and tells how to look around'
	@echo 'make check           format, lints, unit tests'
	@echo 'make test            everything'
	@echo 'make test-fresh      from the package to the dashboard on a Debian that has nothing else (about 4 minutes)'
	@echo 'make test-image      the container image, run by podman as the manifests say'
	@echo 'make test-skew       programs of an earlier version beside these (REV=tag or commit; about 10 minutes)'
	@echo 'make test-vm         tunnels on a Debian kernel, in a virtual machine (15 minutes; see scripts/test-vm.sh)'
	@echo 'make test-systemd    the package and its units under a real systemd (2 minutes after the build)'
	@echo 'make bench           benchmarks'
	@echo 'make bench-bgp       passing routes on, beside BIRD, FRR and GoBGP (about 40 minutes; ARGS="--rounds 1 --divisor 10")'
	@echo 'make soak-bgp        ten minutes: 1 s keepalives and 50 ms BFD under a million routes (SECS=n ROUTES=n BURNERS=n)'
	@echo 'make bench-cni       attaching containers, beside the reference plugins (about 3 minutes)'
	@echo 'make bench-ctl       the command line: 10,000 endpoints, 1,000 policies, on a real etcd'
	@echo 'make bench-dataplane  policy in nftables and both iptables: changing it, and forwarding; an agent with 250'
	@echo '                      endpoints: from etcd to the kernel, starts, memory, a reload with a million routes (about 20'
	@echo '                      minutes; ARGS=agent for these)'
	@echo 'make bench-ipam      addresses: allocations against raw transactions on a real etcd'
	@echo 'make storm           addresses: 100,000 calls under kills, cuts and lost leaders (CALLS=n SEED=n)'
	@echo 'make traffic         packets: thousands a second across every restart and change, counted (TIMES=n, 5)'
	@echo 'make build           release programs into dist/bin'
	@echo 'make deb             a Debian package of them into dist'
	@echo 'make image           a container image of them, from nothing (OCI layout in a tar), into dist'
	@echo 'make reproducible    builds the last commit in two places, and compares (20 minutes)'
	@echo 'make sbom            what the programs are made of (CycloneDX), into dist'
	@echo 'make install         dist/bin to $(PREFIX)/bin, the CNI plugin to $(CNI_BIN)'

build:
	scripts/setup.sh build
	scripts/build.sh

deb: build
	scripts/deb.sh

image:
	scripts/setup.sh build image
	scripts/image.sh

test-fresh:
	scripts/setup.sh build test
	scripts/test-fresh.sh

# The image as it is, run by podman as the manifests for Kubernetes say.
test-image: image
	scripts/setup.sh test
	MARGAY_IMAGE=$$(ls -t $(CURDIR)/dist/*.oci.tar | head -1) cargo test --locked -p margay-lab --test image

test-skew:
	scripts/setup.sh build demo
	scripts/test-skew.sh $(REV)

reproducible:
	scripts/setup.sh build
	scripts/reproducible.sh

sbom:
	scripts/sbom.sh

demo:
	HOSTS=$(HOSTS) KEEP=$(KEEP) scripts/demo.sh

demo-single:
	HOSTS=1 KEEP=$(KEEP) scripts/demo.sh

check:
	scripts/check.sh

test-vm:
	scripts/setup.sh build vm
	scripts/test-vm.sh

test-systemd:
	scripts/setup.sh build test
	scripts/test-systemd.sh

test:
	scripts/test.sh

bench:
	scripts/setup.sh build
	cargo bench --workspace --locked

bench-bgp:
	scripts/bench-bgp.sh $(ARGS)

soak-bgp:
	SECS=$(SECS) ROUTES=$(ROUTES) BURNERS=$(BURNERS) scripts/soak-bgp.sh

bench-cni:
	scripts/bench-cni.sh

bench-ctl:
	scripts/setup.sh build demo
	cargo bench -p margay-ctl --bench verbs --locked

bench-dataplane:
	scripts/bench-dataplane.sh $(ARGS)

# A cluster's etcd writes to a disk.
bench-ipam:
	scripts/setup.sh build demo
	TMPDIR=$${TMPDIR:-/tmp} cargo bench -p margay-lab --bench ipam_etcd --locked

storm:
	CALLS=$(CALLS) SEED=$(SEED) scripts/storm.sh

traffic:
	scripts/traffic.sh $(TIMES)

install:
	@test -x dist/bin/margayd || { echo 'install: run "make build" first' >&2; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 dist/bin/margayd dist/bin/margayctl $(DESTDIR)$(PREFIX)/bin
	dist/bin/margay-cni install --bin-dir $(DESTDIR)$(CNI_BIN) --no-conf --force
