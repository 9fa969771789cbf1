LIFELINE_TARGET_DIR = $${CARGO_TARGET_DIR:-$(LIFELINE_ROOT)/target}

# Cargo would know better what has changed, but `make` has to know that nothing has: `sudo make install` must not
# start cargo, since root may have none, and what root leaves in target/ nobody else can replace.
LIFELINE_SOURCES := Makefile $(shell cd "$(LIFELINE_ROOT)" && \
	find "$$PWD/Cargo.toml" "$$PWD/Cargo.lock" "$$PWD/build.rs" "$$PWD/src" "$$PWD/crates/proto" "$$PWD/crates/engine" -type f)

$(phplibdir)/lifeline.la: $(LIFELINE_SOURCES)
	cd "$(LIFELINE_ROOT)" && PATH="$$(dirname "$(CARGO)"):$$PATH" PHP="$(PHP_EXECUTABLE)" PHP_CONFIG="$(LIFELINE_PHP_CONFIG)" \
		CARGO_TARGET_DIR="$(LIFELINE_TARGET_DIR)" "$(CARGO)" build --locked --release -p lifeline
	@mkdir -p $(phplibdir)
	@cp -f "$(LIFELINE_TARGET_DIR)/release/liblifeline.so" $(phplibdir)/lifeline.so
	@printf "dlname='lifeline.so'\n" > $@
