LIFELINE_TARGET_DIR = $${CARGO_TARGET_DIR:-$(LIFELINE_ROOT)/target}

$(phplibdir)/lifeline.la: lifeline-cargo
	@mkdir -p $(phplibdir)
	@cp -f "$(LIFELINE_TARGET_DIR)/release/liblifeline.so" $(phplibdir)/lifeline.so
	@printf "dlname='lifeline.so'\n" > $@

.PHONY: lifeline-cargo
lifeline-cargo:
	cd "$(LIFELINE_ROOT)" && PATH="$$(dirname "$(CARGO)"):$$PATH" PHP="$(PHP_EXECUTABLE)" PHP_CONFIG="$(LIFELINE_PHP_CONFIG)" \
		CARGO_TARGET_DIR="$(LIFELINE_TARGET_DIR)" "$(CARGO)" build --locked --release -p lifeline
