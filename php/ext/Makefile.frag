LIFELINE_TARGET_DIR = $${CARGO_TARGET_DIR:-$(LIFELINE_ROOT)/target}

# As use_cargo in scripts/common.sh: the cargo that was found, with its own rustc, and no other PATH without need.
LIFELINE_RUST_PATH = $$(bin=$$(dirname "$(CARGO)"); [ "$$(command -v rustc)" = "$$bin/rustc" ] || echo "$$bin:")

# Cargo would know better what has changed, but `make` has to know that nothing has: `sudo make install` must not
# start cargo, since root may have none, and what root leaves in target/ nobody else can replace.
LIFELINE_SOURCES := Makefile $(shell cd "$(LIFELINE_ROOT)" && \
	find "$$PWD/Cargo.toml" "$$PWD/Cargo.lock" "$$PWD/build.rs" "$$PWD/src" "$$PWD/crates/proto" "$$PWD/crates/engine" -type f)

$(phplibdir)/lifeline.la: $(LIFELINE_SOURCES)
	cd "$(LIFELINE_ROOT)" && PATH="$(LIFELINE_RUST_PATH)$$PATH" PHP="$(PHP_EXECUTABLE)" PHP_CONFIG="$(LIFELINE_PHP_CONFIG)" \
		CARGO_TARGET_DIR="$(LIFELINE_TARGET_DIR)" "$(CARGO)" build --locked --release -p lifeline
	@mkdir -p $(phplibdir)
	@cp -f "$(LIFELINE_TARGET_DIR)/release/liblifeline.so" $(phplibdir)/lifeline.so
	@printf "dlname='lifeline.so'\n" > $@
