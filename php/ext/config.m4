dnl phpize && ./configure && make && make install: a PHP build whose one step is cargo.
dnl It lives in a folder of its own, since phpize writes a Makefile beside it.

PHP_ARG_ENABLE([lifeline],
  [whether to enable lifeline],
  [AS_HELP_STRING([--enable-lifeline], [Enable lifeline])],
  [yes])

if test "$PHP_LIFELINE" != "no"; then
  LIFELINE_ROOT=`cd "$abs_srcdir/../.." && pwd`
  LIFELINE_MSRV=`sed -n 's/^rust-version = "\(.*\)"/\1/p' "$LIFELINE_ROOT/Cargo.toml" | head -n 1`
  if test -z "$LIFELINE_MSRV"; then
    AC_MSG_ERROR([$LIFELINE_ROOT/Cargo.toml is not there; build from a whole source tree])
  fi

  AC_PATH_PROG([CARGO], [cargo], [no], [$PATH:$HOME/.cargo/bin])
  if test "$CARGO" = "no"; then
    AC_MSG_ERROR([cargo not found; install Rust $LIFELINE_MSRV or later (scripts/setup.sh build does it on Debian)])
  fi
  AC_MSG_CHECKING([for Rust $LIFELINE_MSRV or later])
  LIFELINE_RUST=`"$CARGO" --version | cut -d' ' -f2`
  if test "`printf '%s\n%s\n' "$LIFELINE_MSRV" "$LIFELINE_RUST" | sort -V | head -n 1`" != "$LIFELINE_MSRV"; then
    AC_MSG_ERROR([$CARGO is $LIFELINE_RUST])
  fi
  AC_MSG_RESULT([$LIFELINE_RUST])

  dnl ext-php-rs takes the path of php-config, not its name.
  LIFELINE_PHP_CONFIG=`command -v $PHP_CONFIG`

  PHP_SUBST([CARGO])
  PHP_SUBST([LIFELINE_ROOT])
  PHP_SUBST([LIFELINE_PHP_CONFIG])
  dnl Three arguments: the defaults exist only after PHP_NEW_EXTENSION, which would want C files.
  PHP_ADD_MAKEFILE_FRAGMENT([$abs_srcdir/Makefile.frag], [$abs_srcdir], [$abs_builddir])
  dnl Without any, configure's mkdir complains.
  PHP_ADD_BUILD_DIR([.])
  dnl A libtool module in name only, so that the generated all, install and test work unchanged.
  PHP_MODULES="$PHP_MODULES \$(phplibdir)/lifeline.la"
  PHP_SUBST([PHP_MODULES])
fi
