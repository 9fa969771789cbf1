/* What only C can say to Zend: macros and inline functions, whose meaning changes between PHP
 * versions, debug builds and thread-safe builds. No logic of ours lives here. */
#define _GNU_SOURCE
#include "php.h"
#include "zend_attributes.h"
#include "zend_exceptions.h"
#include "zend_interfaces.h"
#include "zend_observer.h"
#include "zend_fibers.h"
#include "SAPI.h"
#include "php_variables.h"
#include "ext/spl/spl_exceptions.h"
#include "ext/json/php_json.h"
#include "zend_smart_str.h"

bool lifeline_has_exception(void)
{
	return EG(exception) != NULL;
}

/* exit() and the destruction of a suspended fiber travel as exceptions that nobody may catch. */
bool lifeline_exception_is_exit(void)
{
	return EG(exception) && (zend_is_unwind_exit(EG(exception)) || zend_is_graceful_exit(EG(exception)));
}

/* The script is over: exit() unwinds it, or the end of the request has begun. */
bool lifeline_is_ending(void)
{
	return (EG(flags) & EG_FLAGS_IN_SHUTDOWN) || (EG(exception) && zend_is_unwind_exit(EG(exception)));
}

/* Moves the pending exception to `into`. */
bool lifeline_take_exception(zval *into)
{
	zend_object *exception = EG(exception);
	if (!exception) {
		return false;
	}
	GC_ADDREF(exception);
	zend_clear_exception();
	ZVAL_OBJ(into, exception);
	return true;
}

/* Gives the reference to the engine. */
void lifeline_throw(zend_object *exception)
{
	zend_throw_exception_internal(exception);
}

/* An E_WARNING with the exception's own text and trace. What a user's error handler throws stays
 * pending. Does not take the reference. */
void lifeline_warn(const char *where, zend_object *exception)
{
	zval text;
	ZVAL_UNDEF(&text);
	zend_call_known_instance_method_with_0_params(exception->ce->__tostring, exception, &text);
	if (EG(exception)) {
		if (zend_is_unwind_exit(EG(exception)) || zend_is_graceful_exit(EG(exception))) {
			zval_ptr_dtor(&text);
			return;
		}
		zend_clear_exception();
	}
	if (Z_TYPE(text) == IS_STRING) {
		php_error_docref(NULL, E_WARNING, "%s: uncaught %s", where, Z_STRVAL(text));
	} else {
		php_error_docref(NULL, E_WARNING, "%s: uncaught %s", where, ZSTR_VAL(exception->ce->name));
	}
	zval_ptr_dtor(&text);
}

/* As `lifeline_warn`, past any error handler of the user's. */
void lifeline_warn_unhandled(const char *where, zend_object *exception)
{
	zval handler;
	ZVAL_COPY_VALUE(&handler, &EG(user_error_handler));
	ZVAL_UNDEF(&EG(user_error_handler));
	lifeline_warn(where, exception);
	ZVAL_COPY_VALUE(&EG(user_error_handler), &handler);
}

void lifeline_log(const char *message)
{
	php_log_err(message);
}

#if PHP_VERSION_ID >= 80200
# define LIFELINE_LOAD(flag) zend_atomic_bool_load_ex(&(flag))
# define LIFELINE_CLEAR(flag) zend_atomic_bool_store_ex(&(flag), false)
# define LIFELINE_SET(flag) zend_atomic_bool_store_ex(&(flag), true)
#else
# define LIFELINE_LOAD(flag) (flag)
# define LIFELINE_CLEAR(flag) ((flag) = 0)
# define LIFELINE_SET(flag) ((flag) = 1)
#endif

bool lifeline_interrupted(void)
{
	return LIFELINE_LOAD(EG(vm_interrupt));
}

/* What the VM does between two opcodes: time limit and signal handlers. May bail out, may leave an
 * exception pending. */
void lifeline_serve_interrupts(void)
{
	if (!LIFELINE_LOAD(EG(vm_interrupt))) {
		return;
	}
	LIFELINE_CLEAR(EG(vm_interrupt));
	if (LIFELINE_LOAD(EG(timed_out))) {
		zend_timeout();
	} else if (zend_interrupt_function) {
		zend_interrupt_function(EG(current_execute_data));
	}
}

/* pcntl_signal_dispatch(), for scripts without pcntl_async_signals(true). False: no pcntl. */
bool lifeline_dispatch_signals(void)
{
	zend_function *dispatch = zend_hash_str_find_ptr(CG(function_table), ZEND_STRL("pcntl_signal_dispatch"));
	if (!dispatch) {
		return false;
	}
	zval result;
	ZVAL_UNDEF(&result);
	zend_call_known_function(dispatch, NULL, NULL, &result, 0, NULL, NULL);
	zval_ptr_dtor(&result);
	return true;
}

/* A stream that owns `fd`. */
bool lifeline_stream(int fd, zval *result)
{
	php_stream *stream = php_stream_fopen_from_fd(fd, "r", NULL);
	if (!stream) {
		return false;
	}
	php_stream_to_zval(stream, result);
	return true;
}

static uint32_t lifeline_argument(zval *argument)
{
	return (uint32_t) (argument - ZEND_CALL_ARG(EG(current_execute_data), 1)) + 1;
}

/* Scalars as Zend's own functions take them: canonical errors, strict_types of the caller. */
bool lifeline_argument_int(zval *argument, zend_long *value)
{
	uint32_t number = lifeline_argument(argument);
	if (Z_TYPE_P(argument) == IS_LONG) {
		*value = Z_LVAL_P(argument);
		return true;
	}
	if (Z_TYPE_P(argument) != IS_NULL && !ZEND_ARG_USES_STRICT_TYPES() && zend_parse_arg_long_weak(argument, value, number)) {
		return true;
	}
	if (!EG(exception)) {
		zend_wrong_parameter_type_error(number, Z_EXPECTED_LONG, argument);
	}
	return false;
}

bool lifeline_argument_float(zval *argument, double *value)
{
	uint32_t number = lifeline_argument(argument);
	if (Z_TYPE_P(argument) == IS_DOUBLE) {
		*value = Z_DVAL_P(argument);
		return true;
	}
	if (Z_TYPE_P(argument) == IS_LONG) {
		*value = (double) Z_LVAL_P(argument);
		return true;
	}
	if (Z_TYPE_P(argument) != IS_NULL && !ZEND_ARG_USES_STRICT_TYPES() && zend_parse_arg_double_weak(argument, value, number)) {
		return true;
	}
	if (!EG(exception)) {
		zend_wrong_parameter_type_error(number, Z_EXPECTED_DOUBLE, argument);
	}
	return false;
}

bool lifeline_argument_bool(zval *argument, bool *value)
{
	uint32_t number = lifeline_argument(argument);
	if (Z_TYPE_P(argument) == IS_TRUE || Z_TYPE_P(argument) == IS_FALSE) {
		*value = Z_TYPE_P(argument) == IS_TRUE;
		return true;
	}
	if (Z_TYPE_P(argument) != IS_NULL && !ZEND_ARG_USES_STRICT_TYPES() && zend_parse_arg_bool_weak(argument, value, number)) {
		return true;
	}
	if (!EG(exception)) {
		zend_wrong_parameter_type_error(number, Z_EXPECTED_BOOL, argument);
	}
	return false;
}

bool lifeline_argument_string(zval *argument, zend_string **value)
{
	uint32_t number = lifeline_argument(argument);
	if (Z_TYPE_P(argument) == IS_STRING) {
		*value = Z_STR_P(argument);
		return true;
	}
	if (Z_TYPE_P(argument) != IS_NULL && !ZEND_ARG_USES_STRICT_TYPES() && zend_parse_arg_str_weak(argument, value, number)) {
		return true;
	}
	if (!EG(exception)) {
		zend_wrong_parameter_type_error(number, Z_EXPECTED_STRING, argument);
	}
	return false;
}

bool lifeline_argument_array(zval *argument)
{
	if (Z_TYPE_P(argument) == IS_ARRAY) {
		return true;
	}
	if (!EG(exception)) {
		zend_wrong_parameter_type_error(lifeline_argument(argument), Z_EXPECTED_ARRAY, argument);
	}
	return false;
}

void lifeline_argument_not_callable(zval *argument, const char *why)
{
	if (!EG(exception)) {
		zend_argument_type_error(lifeline_argument(argument), "must be a valid callback, %s", why);
	}
}

void lifeline_argument_value_error(uint32_t number, const char *message)
{
	if (!EG(exception)) {
		zend_argument_value_error(number, "%s", message);
	}
}

void lifeline_argument_type_error(uint32_t number, const char *message)
{
	if (!EG(exception)) {
		zend_argument_type_error(number, "%s", message);
	}
}

/* A typed property with no default (readonly ones) or null. `class_name` may be NULL. */
void lifeline_declare_property(zend_class_entry *ce, const char *name, uint32_t mask, const char *class_name, int flags, bool null_default)
{
	zval value;
	zend_string *property = zend_string_init_interned(name, strlen(name), 1);
	if (null_default) {
		ZVAL_NULL(&value);
	} else {
		ZVAL_UNDEF(&value);
	}
	if (class_name) {
		zend_string *class_type = zend_string_init_interned(class_name, strlen(class_name), 1);
		zend_declare_typed_property(ce, property, &value, flags, NULL, (zend_type) ZEND_TYPE_INIT_CLASS(class_type, 0, mask));
	} else {
		zend_declare_typed_property(ce, property, &value, flags, NULL, (zend_type) ZEND_TYPE_INIT_MASK(mask));
	}
}

/* Arginfo that ext-php-rs cannot write: unions of scalars, `static`. Argument 0 is the return type. */
void lifeline_set_type(zend_class_entry *ce, const char *method, uint32_t argument, uint32_t mask)
{
	zend_internal_function *function = zend_hash_str_find_ptr_lc(&ce->function_table, method, strlen(method));
	if (!function || argument > function->num_args) {
		return;
	}
	/* arg_info[-1] is the return type. */
	zend_internal_arg_info *info = (zend_internal_arg_info *) function->arg_info + argument - 1;
	info->type = (zend_type) ZEND_TYPE_INIT_MASK(mask);
}

/* #[SensitiveParameter] on a parameter, counted from 1: traces show an object in place of its value. */
void lifeline_set_sensitive(zend_class_entry *ce, const char *method, uint32_t argument)
{
	zend_function *function = zend_hash_str_find_ptr_lc(&ce->function_table, method, strlen(method));
	if (function && argument >= 1 && argument <= function->common.num_args) {
		zend_add_parameter_attribute(function, argument - 1, ZSTR_KNOWN(ZEND_STR_SENSITIVEPARAMETER), 0);
	}
}

/* Puts a SensitiveParameterValue in place of each argument in the traces of the exception, and of those
 * before it, that is this string. */
void lifeline_hide_in_trace(zend_object *exception, zend_string *secret)
{
	for (int depth = 0; exception && depth < 100; depth++) {
		zval room, *frame, *argument;
		zval *trace = zend_read_property_ex(zend_get_exception_base(exception), exception, ZSTR_KNOWN(ZEND_STR_TRACE), 1, &room);
		ZVAL_DEREF(trace);
		if (Z_TYPE_P(trace) == IS_ARRAY) {
			SEPARATE_ARRAY(trace);
			ZEND_HASH_FOREACH_VAL(Z_ARRVAL_P(trace), frame) {
				zval *arguments = Z_TYPE_P(frame) == IS_ARRAY ? zend_hash_find(Z_ARRVAL_P(frame), ZSTR_KNOWN(ZEND_STR_ARGS)) : NULL;
				if (!arguments || Z_TYPE_P(arguments) != IS_ARRAY) {
					continue;
				}
				SEPARATE_ARRAY(frame);
				arguments = zend_hash_find(Z_ARRVAL_P(frame), ZSTR_KNOWN(ZEND_STR_ARGS));
				SEPARATE_ARRAY(arguments);
				ZEND_HASH_FOREACH_VAL(Z_ARRVAL_P(arguments), argument) {
					zval *value = argument;
					ZVAL_DEREF(value);
					if (Z_TYPE_P(value) != IS_STRING || !zend_string_equals(Z_STR_P(value), secret)) {
						continue;
					}
					zval hidden;
					if (object_init_ex(&hidden, zend_ce_sensitive_parameter_value) != SUCCESS) {
						continue;
					}
					zend_call_known_instance_method_with_1_params(zend_ce_sensitive_parameter_value->constructor,
						Z_OBJ(hidden), NULL, value);
					zval_ptr_dtor(argument);
					ZVAL_COPY_VALUE(argument, &hidden);
				} ZEND_HASH_FOREACH_END();
			} ZEND_HASH_FOREACH_END();
		}
		zval *previous = zend_read_property_ex(zend_get_exception_base(exception), exception, ZSTR_KNOWN(ZEND_STR_PREVIOUS), 1, &room);
		exception = Z_TYPE_P(previous) == IS_OBJECT ? Z_OBJ_P(previous) : NULL;
	}
}

bool lifeline_sapi_serves_requests(void)
{
	static const char *const names[] = { "fpm-fcgi", "cgi-fcgi", "apache2handler", "litespeed", "uwsgi" };
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (sapi_module.name && strcmp(sapi_module.name, names[i]) == 0) {
			return true;
		}
	}
	return false;
}

const char *lifeline_sapi_name(void)
{
	return sapi_module.name ? sapi_module.name : "";
}

/* The script comes from the standard input (or is typed there), not from a file or from -r. */
bool lifeline_script_is_stdin(void)
{
	static const char *const names[] = { "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "php://stdin" };
	const char *script = SG(request_info).path_translated;
	if (!script) {
		return false;
	}
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (strcmp(script, names[i]) == 0) {
			return true;
		}
	}
	if (strcmp(script, "Standard input code") != 0) {
		return false;
	}
	/* -r has that name, too: its code has another. */
	const char *first = "";
	for (zend_execute_data *frame = EG(current_execute_data); frame; frame = frame->prev_execute_data) {
		if (frame->func && ZEND_USER_CODE(frame->func->type)) {
			first = ZSTR_VAL(frame->func->op_array.filename);
		}
	}
	return strcmp(first, "Command line code") != 0;
}

/* The error that has ended the script: its message, and where; NULL: there was none. */
const char *lifeline_fatal_error(size_t *length, const char **file, uint32_t *line)
{
	const int fatal = E_ERROR | E_CORE_ERROR | E_COMPILE_ERROR | E_PARSE | E_USER_ERROR | E_RECOVERABLE_ERROR;
	if (!PG(last_error_message) || !(PG(last_error_type) & fatal)) {
		return NULL;
	}
	*length = ZSTR_LEN(PG(last_error_message));
	*file = PG(last_error_file) ? ZSTR_VAL(PG(last_error_file)) : "";
	*line = (uint32_t) PG(last_error_lineno);
	return ZSTR_VAL(PG(last_error_message));
}

void lifeline_observe_fibers(void (*switched)(zend_fiber_context *from, zend_fiber_context *to))
{
	zend_observer_fiber_switch_register(switched);
}

bool lifeline_module_loaded(const char *name)
{
	return zend_hash_str_exists(&module_registry, name, strlen(name));
}

zend_class_entry *lifeline_runtime_exception(void)
{
	return spl_ce_RuntimeException;
}

/* WsReject: an exception of another constructor. */
static zend_class_entry *reject_class;

ZEND_BEGIN_ARG_INFO_EX(arginfo_reject, 0, 0, 1)
	ZEND_ARG_TYPE_INFO(0, reason, IS_STRING, 0)
	ZEND_ARG_TYPE_INFO_WITH_DEFAULT_VALUE(0, code, IS_LONG, 0, "0")
	ZEND_ARG_TYPE_INFO_WITH_DEFAULT_VALUE(0, permanent, _IS_BOOL, 0, "true")
ZEND_END_ARG_INFO()

static ZEND_NAMED_FUNCTION(reject_construct)
{
	zend_string *reason;
	zend_long code = 0;
	bool permanent = true;
	ZEND_PARSE_PARAMETERS_START(1, 3)
		Z_PARAM_STR(reason)
		Z_PARAM_OPTIONAL
		Z_PARAM_LONG(code)
		Z_PARAM_BOOL(permanent)
	ZEND_PARSE_PARAMETERS_END();
	zend_object *self = Z_OBJ_P(ZEND_THIS);
	zval value;
	ZVAL_STR(&value, reason);
	zend_update_property_ex(zend_ce_exception, self, ZSTR_KNOWN(ZEND_STR_MESSAGE), &value);
	ZVAL_LONG(&value, code);
	zend_update_property_ex(zend_ce_exception, self, ZSTR_KNOWN(ZEND_STR_CODE), &value);
	zend_update_property_bool(reject_class, self, "permanent", sizeof("permanent") - 1, permanent);
}

static const zend_function_entry reject_methods[] = {
	ZEND_NAMED_ME(__construct, reject_construct, arginfo_reject, ZEND_ACC_PUBLIC)
	ZEND_FE_END
};

bool lifeline_register_reject(zend_class_entry *parent)
{
	zend_class_entry class;
	INIT_CLASS_ENTRY(class, "WsReject", reject_methods);
	reject_class = zend_register_internal_class_ex(&class, parent);
	if (!reject_class) {
		return false;
	}
	zval unset;
	ZVAL_UNDEF(&unset);
	zend_string *name = zend_string_init("permanent", sizeof("permanent") - 1, 1);
	zend_declare_typed_property(reject_class, name, &unset, ZEND_ACC_PUBLIC | ZEND_ACC_READONLY, NULL,
		(zend_type) ZEND_TYPE_INIT_MASK(MAY_BE_BOOL));
	zend_string_release(name);
	return true;
}

/* Takes the pending exception if it is a WsReject: what it says. `reason` is to be released. */
bool lifeline_take_reject(zval *reason, zend_long *code, bool *permanent)
{
	zend_object *exception = EG(exception);
	if (!exception || !instanceof_function(exception->ce, reject_class)) {
		return false;
	}
	GC_ADDREF(exception);
	zend_clear_exception();
	zval room;
	ZVAL_COPY(reason, zend_read_property_ex(zend_ce_exception, exception, ZSTR_KNOWN(ZEND_STR_MESSAGE), 1, &room));
	*code = zval_get_long(zend_read_property_ex(zend_ce_exception, exception, ZSTR_KNOWN(ZEND_STR_CODE), 1, &room));
	/* A subclass may not have called the constructor. */
	zval *flag = zend_read_property(reject_class, exception, "permanent", sizeof("permanent") - 1, 1, &room);
	*permanent = Z_TYPE_P(flag) != IS_FALSE;
	OBJ_RELEASE(exception);
	return true;
}

/* The value as JSON text; false: it has none, or an exception is pending. json_last_error() stays what it was. */
bool lifeline_json_encode(zval *value, zval *into)
{
	smart_str text = {0};
	int options = PHP_JSON_UNESCAPED_SLASHES | PHP_JSON_UNESCAPED_UNICODE | PHP_JSON_PRESERVE_ZERO_FRACTION;
	php_json_error_code last = JSON_G(error_code);
	bool done = php_json_encode(&text, value, options) == SUCCESS && JSON_G(error_code) == PHP_JSON_ERROR_NONE;
	JSON_G(error_code) = last;
	if (!done || EG(exception) || !text.s) {
		smart_str_free(&text);
		return false;
	}
	smart_str_0(&text);
	ZVAL_STR(into, text.s);
	return true;
}

/* The value of a JSON text, objects as arrays; false: it is none. */
bool lifeline_json_decode(const char *text, size_t length, zval *into)
{
	/* The parser wants a NUL behind it. */
	zend_string *copy = zend_string_init(text, length, false);
	php_json_error_code last = JSON_G(error_code);
	bool done = php_json_decode_ex(into, ZSTR_VAL(copy), length, PHP_JSON_OBJECT_AS_ARRAY | PHP_JSON_BIGINT_AS_STRING,
		PHP_JSON_PARSER_DEFAULT_DEPTH) == SUCCESS;
	JSON_G(error_code) = last;
	zend_string_release(copy);
	return done;
}

zend_object *lifeline_this(void)
{
	zend_execute_data *frame = EG(current_execute_data);
	return frame && Z_TYPE(frame->This) == IS_OBJECT ? Z_OBJ(frame->This) : NULL;
}

/* Whether the script throws away what the running method of ours returns. */
bool lifeline_result_is_unused(void)
{
	zend_execute_data *frame = EG(current_execute_data), *caller = frame ? frame->prev_execute_data : NULL;
	if (!caller || !caller->func || !ZEND_USER_CODE(caller->func->type) || !caller->opline) {
		return false;
	}
	switch (caller->opline->opcode) {
		case ZEND_DO_FCALL:
		case ZEND_DO_ICALL:
		case ZEND_DO_FCALL_BY_NAME:
			return caller->opline->result_type == IS_UNUSED;
		default:
			return false;
	}
}

/* Frees the function that was made for one call of __call or __callStatic. */
void lifeline_release_callable(zend_fcall_info_cache *resolved)
{
	zend_release_fcall_info_cache(resolved);
}

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

int lifeline_at_fork(void (*before)(void), void (*child)(void))
{
	return pthread_atfork(before, NULL, child);
}

/* For threads of ours: PHP's signal handlers belong on PHP's thread. */
void lifeline_block_signals(void)
{
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
}

/* Threads inherit the mask of their maker: blocked while `make` runs, so that none ever takes a signal. */
void lifeline_with_signals_blocked(void (*make)(void *), void *context)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	make(context);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Becomes readable when a signal has come that the reading thread holds back. */
int lifeline_signal_descriptor(void)
{
	sigset_t all;
	sigfillset(&all);
	return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

ZEND_TLS sigset_t lifeline_held;

/* Holds signals back until `lifeline_release_signals`. False: one has come already, none is held. */
bool lifeline_hold_signals(void)
{
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &lifeline_held);
	if (LIFELINE_LOAD(EG(vm_interrupt))) {
		pthread_sigmask(SIG_SETMASK, &lifeline_held, NULL);
		return false;
	}
	return true;
}

void lifeline_release_signals(void)
{
	pthread_sigmask(SIG_SETMASK, &lifeline_held, NULL);
}

/* Sleeps until `fd` (or none: -1) is readable, `nanoseconds` have passed (negative: no limit) or a
 * signal has come. Signals are blocked between the look at vm_interrupt and the sleep, so none is
 * slept through. `busy`: things come in quick succession, so try a sleep of a millisecond first that
 * leaves the signals alone: two system calls less, and a signal just before it waits no longer than
 * that. 1: readable; 0: time; -1: interrupted. */
int lifeline_wait(int fd, int64_t nanoseconds, bool busy)
{
	sigset_t all, before;
	struct pollfd ready = { .fd = fd, .events = POLLIN, .revents = 0 };
	struct timespec limit, *timeout = NULL;
	int result;
	if (busy && fd >= 0 && (nanoseconds < 0 || nanoseconds > 2000000)) {
		if (LIFELINE_LOAD(EG(vm_interrupt))) {
			return -1;
		}
		result = poll(&ready, 1, 1);
		if (result != 0) {
			return result;
		}
	}
	if (nanoseconds >= 0) {
		limit.tv_sec = nanoseconds / 1000000000;
		limit.tv_nsec = nanoseconds % 1000000000;
		timeout = &limit;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (LIFELINE_LOAD(EG(vm_interrupt))) {
		result = -1;
	} else {
		result = ppoll(&ready, fd >= 0 ? 1 : 0, timeout, &before);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return result;
}

/* Signals of a server with workers: what a gateway does by itself, and what its workers leave to it. Only where their
 * disposition is the default one, and until `lifeline_restore_signals`. */
static const int lifeline_signals[] = { SIGUSR1, SIGTERM, SIGINT };
#define LIFELINE_SIGNALS (sizeof(lifeline_signals) / sizeof(*lifeline_signals))
static struct sigaction lifeline_before[LIFELINE_SIGNALS];
static bool lifeline_taken[LIFELINE_SIGNALS];
static volatile sig_atomic_t lifeline_reload, lifeline_stops;
/* A timer that is made to expire, for loops that sleep elsewhere; -1: none. */
static volatile sig_atomic_t lifeline_waker = -1;

/* vm_interrupt: whoever is about to sleep looks at it, see `lifeline_wait`. */
static void lifeline_on_signal(int number)
{
	int error = errno;
	if (number == SIGUSR1) {
		lifeline_reload = 1;
	} else if (lifeline_stops < 2) {
		lifeline_stops++;
	}
	LIFELINE_SET(EG(vm_interrupt));
	if (lifeline_waker >= 0) {
		struct itimerspec now = { .it_value = { .tv_nsec = 1 } };
		timerfd_settime(lifeline_waker, 0, &now, NULL);
	}
	errno = error;
}

/* In place of SIG_IGN, which programs that the worker starts would inherit. */
static void lifeline_leave_signal(int number)
{
	(void) number;
}

/* `gateway`: remember them, for `lifeline_take_signals`; else they do nothing. */
void lifeline_watch_signals(bool gateway)
{
	lifeline_reload = 0;
	lifeline_stops = 0;
	for (size_t i = 0; i < LIFELINE_SIGNALS; i++) {
		struct sigaction ours;
		memset(&ours, 0, sizeof(ours));
		ours.sa_handler = gateway ? lifeline_on_signal : lifeline_leave_signal;
		/* A worker's system calls go on where they can; a gateway's sleep is to end. */
		ours.sa_flags = gateway ? 0 : SA_RESTART;
		sigemptyset(&ours.sa_mask);
		if (lifeline_taken[i]) {
			continue;
		}
		/* Cannot fail for these numbers; PHP's own, which knows of handlers that PHP puts off, returns nothing. */
		zend_sigaction(lifeline_signals[i], NULL, &lifeline_before[i]);
		if (!(lifeline_before[i].sa_flags & SA_SIGINFO) && lifeline_before[i].sa_handler == SIG_DFL) {
			zend_sigaction(lifeline_signals[i], &ours, NULL);
			lifeline_taken[i] = true;
		}
	}
}

void lifeline_restore_signals(void)
{
	for (size_t i = 0; i < LIFELINE_SIGNALS; i++) {
		struct sigaction now;
		if (!lifeline_taken[i]) {
			continue;
		}
		lifeline_taken[i] = false;
		zend_sigaction(lifeline_signals[i], NULL, &now);
		if (now.sa_handler == lifeline_on_signal || now.sa_handler == lifeline_leave_signal) {
			zend_sigaction(lifeline_signals[i], &lifeline_before[i], NULL);
		}
	}
}

void lifeline_wake_by_signal(int timer)
{
	lifeline_waker = timer;
}

/* What has come since the last call. False: nothing. */
bool lifeline_take_signals(int *stops, bool *reload)
{
	sigset_t all, before;
	if (!lifeline_reload && !lifeline_stops) {
		return false;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	*stops = lifeline_stops;
	*reload = lifeline_reload;
	lifeline_stops = 0;
	lifeline_reload = 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return true;
}

/* A query string as parse_str() reads it. */
void lifeline_parse_query(const char *query, size_t length, zval *result)
{
	array_init(result);
	sapi_module.treat_data(PARSE_STRING, estrndup(query, length), result);
}

/* The text of a parameter's default in arginfo; lives until the process ends. */
void lifeline_set_default(zend_class_entry *ce, const char *method, uint32_t argument, const char *text)
{
	zend_internal_function *function = zend_hash_str_find_ptr_lc(&ce->function_table, method, strlen(method));
	if (function && argument >= 1 && argument <= function->num_args) {
		((zend_internal_arg_info *) function->arg_info)[argument - 1].default_value = text;
	}
}
