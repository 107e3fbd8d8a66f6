# Two commands: `sudo make up` shows berth at work, `sudo make test` proves it.
.PHONY: up down test check bench bench-runtime bench-scale build layout

# Build, start the daemon, obtain a base image, run the example application.
up:
	@scripts/up.sh

# Stop the example application and the daemon that `up` started; keeps images and volumes.
down:
	@scripts/down.sh

# Everything: tools, checks, every test; cleans up after itself.
test:
	@scripts/test.sh

# Only what needs no root: fmt, clippy, tidy, typos.
check:
	@cargo x check

# berth, docker and podman side by side; prints a table.
bench:
	@scripts/bench.sh

# berth's runtime, crun and runc side by side; prints a table.
bench-runtime:
	@scripts/bench.sh runtime

# A thousand containers, and ten thousand one after another; prints a table.
bench-scale:
	@scripts/bench.sh scale

build:
	@scripts/build.sh

# Renews the order of functions in the release binary (crates/berth/layout.ld), by tracing one.
layout:
	@scripts/layout.sh
