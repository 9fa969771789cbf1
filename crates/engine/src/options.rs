//! Options as a tree of plain values, checked and turned into [`ServerConfig`] and [`ClientConfig`].
//!
//! The application hands over what its users wrote (nested maps); everything that can be wrong with
//! it is found here, before any socket exists, and named: the key's full path, what was given and
//! what is allowed.

mod fields;
mod url;

use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeline_proto::backoff::Jitter;
use lifeline_proto::heartbeat::{Adaptive, Mode};
use lifeline_proto::outbox::OverflowPolicy;

use self::fields::Fields;
use crate::bridge::LogLevel;
use crate::config::{
    Beats, ClientConfig, ClientTls, DeflateConfig, Durability, Limits, ListenAddress, Network, Origins, Proxy,
    RateAction, Reconnect, ServerConfig, ServerTls, SlowConsumer, StaticFiles, Storage, WatchdogAction, WorkerKey,
    Workers,
};

pub use self::url::{client_url, listen_address};

/// A value as the application's language has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Vec<u8>),
    /// Also what an empty map looks like.
    List(Vec<Self>),
    /// In the order given; keys that are integers come as decimal text.
    Map(Vec<(Vec<u8>, Self)>),
    /// What no option takes (but `logger`): the name of its type.
    Other(String),
}

impl Value {
    /// The value of `key`, when this is a map that has it.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key.as_bytes()).map(|(_, value)| value),
            _ => None,
        }
    }
}

/// Whose options they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

impl Role {
    /// The class that takes the options.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::Server => "WsServer",
            Self::Client => "WsClient",
        }
    }
}

/// What is wrong with an option. The text is complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A value of a type that the option does not take.
    #[error("{0}")]
    Type(String),
    /// An unknown key, or a value of the right type that is not allowed.
    #[error("{0}")]
    Value(String),
}

/// A key and who takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Full path: `heartbeat.interval`.
    pub path: &'static str,
    pub server: bool,
    pub client: bool,
}

impl Key {
    /// Whether `role` takes it.
    #[must_use]
    pub fn allows(&self, role: Role) -> bool {
        match role {
            Role::Server => self.server,
            Role::Client => self.client,
        }
    }
}

/// Seconds in a year: the longest duration that an option takes.
pub const LONGEST: f64 = 31_536_000.0;

/// The shortest duration of a timer.
const TICK: f64 = 0.001;

const BIGGEST: i64 = 1 << 50;

/// Each is a process with a PHP of its own.
const MAX_WORKERS: i64 = 256;

/// What a PHP has when it begins comes near to it: with less, each would be replaced at once.
const MIN_WORKER_MEMORY: i64 = 16 << 20;

const fn both(path: &'static str) -> Key {
    Key { path, server: true, client: true }
}

const fn server_only(path: &'static str) -> Key {
    Key { path, server: true, client: false }
}

const fn client_only(path: &'static str) -> Key {
    Key { path, server: false, client: true }
}

/// Every option there is.
pub const KEYS: &[Key] = &[
    both("heartbeat.interval"),
    both("heartbeat.timeout"),
    both("heartbeat.missedLimit"),
    both("heartbeat.mode"),
    both("heartbeat.adaptive"),
    both("heartbeat.message"),
    both("heartbeat.reply"),
    both("heartbeat.accept"),
    both("heartbeat.preset"),
    server_only("idle.timeout"),
    server_only("idle.evict"),
    client_only("reconnect.base"),
    client_only("reconnect.max"),
    client_only("reconnect.factor"),
    client_only("reconnect.floor"),
    client_only("reconnect.jitter"),
    client_only("reconnect.first"),
    client_only("reconnect.maxAttempts"),
    client_only("reconnect.stableAfter"),
    client_only("reconnect.mode"),
    client_only("reconnect.terminalCodes"),
    client_only("reconnect.terminalStatuses"),
    client_only("connect.timeout"),
    client_only("connect.headers"),
    client_only("connect.proxy"),
    client_only("outbox.limit"),
    client_only("outbox.bytes"),
    client_only("outbox.overflow"),
    client_only("outbox.blockTimeout"),
    client_only("outbox.ttl"),
    client_only("outbox.path"),
    client_only("outbox.durability"),
    both("limits.memory"),
    both("limits.maxMessage"),
    both("limits.maxFrame"),
    both("limits.maxFragments"),
    both("limits.inbound"),
    server_only("limits.maxConnections"),
    server_only("limits.perIp"),
    server_only("limits.maxChannels"),
    server_only("limits.maxSubscriptions"),
    server_only("limits.handshakeTimeout"),
    server_only("limits.authTimeout"),
    server_only("limits.maxHeaderBytes"),
    server_only("limits.maxSessions"),
    server_only("limits.messageRate"),
    server_only("limits.byteRate"),
    server_only("limits.rateAction"),
    server_only("send.limit"),
    server_only("send.policy"),
    both("compression"),
    server_only("ack"),
    server_only("redelivery.limit"),
    server_only("resume.ttl"),
    server_only("resume.count"),
    server_only("resume.bytes"),
    server_only("dedupe.ttl"),
    server_only("store"),
    server_only("origins"),
    both("protocols"),
    server_only("path"),
    server_only("healthPath"),
    server_only("static"),
    server_only("trustedProxies"),
    server_only("proxyProtocol"),
    both("tls.cert"),
    both("tls.key"),
    server_only("tls.clientCa"),
    server_only("tls.sni"),
    client_only("tls.ca"),
    client_only("tls.verify"),
    server_only("watchdog.lag"),
    server_only("watchdog.action"),
    server_only("admin"),
    both("logger"),
    both("logLevel"),
    server_only("ioThreads"),
    server_only("reusePort"),
    server_only("backlog"),
    server_only("workers"),
];

/// A server's options. `listen` is a URL or a list of them.
///
/// `logger` is accepted and left to the application.
///
/// # Errors
/// [`OptionError`] that names the key or the URL, what was given and what is allowed.
pub fn server(listen: &Value, options: &Value) -> Result<ServerConfig, OptionError> {
    let role = Role::Server;
    let fields = Fields::new(role, options)?;
    let default = ServerConfig::default();
    let limits = read_limits(&fields, &default.limits)?;
    let mut server_limits = default.server_limits.clone();
    fields.count("limits.maxConnections", 0..=i64::from(i32::MAX), &mut server_limits.max_connections)?;
    fields.count("limits.perIp", 0..=i64::from(i32::MAX), &mut server_limits.per_ip)?;
    fields.count("limits.maxChannels", 1..=i64::from(i32::MAX), &mut server_limits.max_channels)?;
    fields.count("limits.maxSubscriptions", 1..=i64::from(i32::MAX), &mut server_limits.max_subscriptions)?;
    fields.duration("limits.authTimeout", TICK..=LONGEST, &mut server_limits.auth_timeout)?;
    fields.rate("limits.messageRate", &mut server_limits.message_rate)?;
    fields.rate("limits.byteRate", &mut server_limits.byte_rate)?;
    fields.choice(
        "limits.rateAction",
        &[("pause", RateAction::Pause), ("close", RateAction::Close)],
        &mut server_limits.rate_action,
    )?;

    let mut send = default.send.clone();
    fields.count("send.limit", 1..=BIGGEST, &mut send.limit)?;
    fields.choice(
        "send.policy",
        &[
            ("close", SlowConsumer::Close),
            ("dropOldest", SlowConsumer::DropOldest),
            ("dropNewest", SlowConsumer::DropNewest),
        ],
        &mut send.policy,
    )?;
    fields.at_most("send.limit", send.limit, "limits.memory", limits.memory)?;

    let workers = read_workers(&fields)?;
    let mut watchdog = default.watchdog.clone();
    fields.duration("watchdog.lag", TICK..=LONGEST, &mut watchdog.lag)?;
    if workers.count > 0 {
        watchdog.action = WatchdogAction::Replace;
    }
    fields.choice(
        "watchdog.action",
        &[
            ("log", WatchdogAction::Log),
            ("unready", WatchdogAction::Unready),
            ("drain", WatchdogAction::Drain),
            ("replace", WatchdogAction::Replace),
        ],
        &mut watchdog.action,
    )?;
    if watchdog.action == WatchdogAction::Replace && workers.count == 0 {
        return Err(fields.refuse(
            "watchdog.action",
            "can be 'replace' only with 'workers': there is no worker to replace; allowed without are 'log', \
             'unready', 'drain'",
        ));
    }

    let mut sessions = default.sessions.clone();
    fields.choice("ack", &[("auto", false), ("manual", true)], &mut sessions.manual_ack)?;
    fields.small("redelivery.limit", 1..=1000, &mut sessions.redelivery_limit)?;
    fields.duration("resume.ttl", 0.0..=LONGEST, &mut sessions.resume_ttl)?;
    fields.count("resume.count", 1..=i64::from(i32::MAX), &mut sessions.resume_count)?;
    fields.count("resume.bytes", 1..=BIGGEST, &mut sessions.resume_bytes)?;
    fields.duration("dedupe.ttl", 0.0..=LONGEST, &mut sessions.dedupe_ttl)?;
    fields.count("limits.maxSessions", 1..=i64::from(i32::MAX), &mut sessions.max_sessions)?;
    fields.at_most("resume.bytes", sessions.resume_bytes, "limits.memory", limits.memory)?;
    sessions.store = read_store(&fields)?;

    let mut config = ServerConfig {
        listen: url::listen(listen)?,
        heartbeat: read_beats(&fields, limits.max_message)?,
        limits,
        server_limits,
        send,
        compression: read_compression(&fields)?,
        sessions,
        origins: read_origins(&fields)?,
        protocols: read_protocols(&fields)?,
        trusted_proxies: read_networks(&fields)?,
        tls: read_server_tls(&fields)?,
        watchdog,
        workers,
        log_level: read_log_level(&fields)?,
        ..default
    };
    fields.optional_duration("idle.timeout", TICK..=LONGEST, &mut config.idle_timeout)?;
    fields.flag("idle.evict", &mut config.idle_evict)?;
    config.path = read_path(&fields, "path")?;
    config.health_path = read_path(&fields, "healthPath")?;
    config.static_files = read_static(&fields)?;
    fields.flag("proxyProtocol", &mut config.proxy_protocol)?;
    config.admin = read_admin(&fields)?;
    if let Some(threads) = fields.optional_int("ioThreads", 1..=64)? {
        config.io_threads = usize::try_from(threads).ok();
    }
    fields.flag("reusePort", &mut config.reuse_port)?;
    fields.small("backlog", 1..=65_535, &mut config.backlog)?;

    let wants_tls = config.listen.iter().any(|address| {
        matches!(address, ListenAddress::Tcp { tls: true, .. } | ListenAddress::Passed { tls: true, .. })
    });
    if wants_tls && config.tls.is_none() {
        return Err(OptionError::Value(
            "WsServer: a wss:// address needs a certificate: set the option 'tls.cert' (and 'tls.key')".into(),
        ));
    }
    if !wants_tls && config.tls.is_some() {
        return Err(OptionError::Value(
            "WsServer: the option 'tls' is set but no address in $listen is wss://, so nothing would be encrypted"
                .into(),
        ));
    }
    fields.finish();
    Ok(config)
}

fn read_store(fields: &Fields) -> Result<Option<PathBuf>, OptionError> {
    let allowed = "must be 'memory' or 'file:///directory'";
    let text = match fields.take("store") {
        None => return Ok(None),
        Some(Value::Text(text)) => text,
        Some(other) => return Err(fields.wrong("store", "string", other)),
    };
    if text == b"memory" {
        return Ok(None);
    }
    let shown = fields::shown_text(text);
    if let Some(path) = text.strip_prefix(b"file://") {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
            return Err(fields.refuse("store", &format!("{allowed}: {shown} does not name an absolute directory")));
        }
        if path.parent().is_none() {
            return Err(fields.refuse("store", &format!("{allowed}: {shown} is the root of all files")));
        }
        if path.exists() && !path.is_dir() {
            return Err(fields.refuse(
                "store",
                &format!("{allowed}: {} is no directory", fields::shown_text(path.as_os_str().as_bytes())),
            ));
        }
        return Ok(Some(path.to_owned()));
    }
    let given = String::from_utf8_lossy(text);
    let scheme = given.split(':').next().unwrap_or_default();
    Err(if matches!(scheme, "redis" | "rediss") {
        // A URL may hold a password.
        fields.refuse("store", &format!("{allowed}: a store in Redis ('{scheme}://') is not available yet"))
    } else {
        fields.refuse("store", &format!("{allowed}, {} given", fields::shown_text(scheme.as_bytes())))
    })
}

fn read_storage(fields: &Fields) -> Result<Option<Storage>, OptionError> {
    let mut durability = Durability::default();
    fields.choice(
        "outbox.durability",
        &[("always", Durability::Always), ("interval", Durability::Interval), ("spill", Durability::Spill)],
        &mut durability,
    )?;
    match fields.directory("outbox.path")? {
        Some(path) => Ok(Some(Storage { path, durability })),
        None if durability != Durability::default() => {
            Err(fields.refuse("outbox.durability", "needs 'outbox.path', the directory to store messages in"))
        }
        None => Ok(None),
    }
}

/// A client's options. `urls` is a URL or a list of them.
///
/// `logger` is accepted and left to the application.
///
/// # Errors
/// [`OptionError`] that names the key or the URL, what was given and what is allowed.
pub fn client(urls: &Value, options: &Value) -> Result<ClientConfig, OptionError> {
    let role = Role::Client;
    let fields = Fields::new(role, options)?;
    let default = ClientConfig::default();
    let limits = read_limits(&fields, &default.limits)?;

    let mut outbox = default.outbox.clone();
    fields.count("outbox.limit", 1..=i64::from(i32::MAX), &mut outbox.limit)?;
    fields.count("outbox.bytes", 1..=BIGGEST, &mut outbox.bytes)?;
    fields.choice(
        "outbox.overflow",
        &[
            ("error", OverflowPolicy::Error),
            ("block", OverflowPolicy::Block),
            ("dropOldest", OverflowPolicy::DropOldest),
            ("dropNewest", OverflowPolicy::DropNewest),
        ],
        &mut outbox.overflow,
    )?;
    fields.optional_duration("outbox.blockTimeout", 0.0..=LONGEST, &mut outbox.block_timeout)?;
    let storage = read_storage(&fields)?;
    if storage.is_some() {
        outbox.ttl = None;
    }
    fields.optional_duration("outbox.ttl", TICK..=LONGEST, &mut outbox.ttl)?;
    fields.at_most("outbox.bytes", outbox.bytes, "limits.memory", limits.memory)?;

    let mut config = ClientConfig {
        urls: url::client(urls)?,
        heartbeat: read_beats(&fields, limits.max_message)?,
        reconnect: read_reconnect(&fields)?,
        outbox,
        storage,
        compression: read_compression(&fields)?,
        limits,
        tls: read_client_tls(&fields)?,
        log_level: read_log_level(&fields)?,
        ..default
    };
    let protocols = read_protocols(&fields)?;
    if fields.has("protocols") {
        config.protocols = protocols;
    }
    fields.duration("connect.timeout", TICK..=LONGEST, &mut config.connect_timeout)?;
    if let Some(value) = fields.take("connect.headers") {
        config.headers = headers(value, "WsClient: option 'connect.headers'")?;
    }
    config.proxy = read_proxy(&fields)?;
    fields.finish();
    Ok(config)
}

/// Request headers: a map of names to a value or a list of values. `place` begins the error.
///
/// # Errors
/// Names that are not tokens (RFC 9110 section 5.6.2), values with control characters, and headers that
/// the handshake itself sets.
pub fn headers(value: &Value, place: &str) -> Result<Vec<(String, String)>, OptionError> {
    let entries = match value {
        Value::List(list) if list.is_empty() => return Ok(Vec::new()),
        Value::Map(entries) => entries,
        other => {
            return Err(OptionError::Type(format!(
                "{place} must be an array of header names to values (['Authorization' => 'Bearer …']), {} given",
                fields::kind(other)
            )));
        }
    };
    let mut headers = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let shown = fields::shown_text(name);
        if !is_token(name) {
            return Err(OptionError::Value(format!(
                "{place}: {shown} is not a header name (letters, digits and !#$%&'*+-.^_`|~)"
            )));
        }
        let name = String::from_utf8_lossy(name).into_owned();
        let lower = name.to_ascii_lowercase();
        if lower == "sec-websocket-protocol" {
            return Err(OptionError::Value(format!("{place}: {shown} is set from the option 'protocols'")));
        }
        let owned = ["connection", "content-length", "host", "transfer-encoding", "upgrade"];
        if owned.contains(&lower.as_str()) || lower.starts_with("sec-websocket-") {
            return Err(OptionError::Value(format!("{place}: {shown} is set by the handshake itself")));
        }
        let values = match value {
            Value::List(values) => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        for value in values {
            let Value::Text(bytes) = value else {
                return Err(OptionError::Type(format!(
                    "{place}: the value of {shown} must be a string or a list of strings, {} given",
                    fields::kind(value)
                )));
            };
            let text =
                std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(|c| c.is_control() && c != '\t'));
            let Some(text) = text else {
                return Err(OptionError::Value(format!(
                    "{place}: the value of {shown} must be UTF-8 without control characters"
                )));
            };
            headers.push((name.clone(), text.trim().to_owned()));
        }
    }
    Ok(headers)
}

/// A figure set for what stands between the two ends; sources in `docs/tuning.md`.
struct Preset {
    name: &'static str,
    interval: f64,
    timeout: f64,
    adaptive: Option<[f64; 3]>,
}

const PRESETS: &[Preset] = &[
    Preset { name: "nginx", interval: 30.0, timeout: 10.0, adaptive: None },
    Preset { name: "aws-elb", interval: 50.0, timeout: 10.0, adaptive: None },
    Preset { name: "haproxy", interval: 25.0, timeout: 10.0, adaptive: None },
    Preset { name: "cloudflare", interval: 50.0, timeout: 10.0, adaptive: None },
    Preset { name: "grpc", interval: 20.0, timeout: 20.0, adaptive: None },
    Preset { name: "mobile", interval: 30.0, timeout: 15.0, adaptive: Some([30.0, 240.0, 30.0]) },
];

fn read_beats(fields: &Fields<'_>, max_message: usize) -> Result<Beats, OptionError> {
    let mut beats = Beats::default();
    let rules = &mut beats.rules;
    let presets: Vec<_> = PRESETS.iter().map(|preset| (preset.name, preset)).collect();
    if let Some(preset) = fields.optional_choice("heartbeat.preset", &presets)? {
        rules.interval = Duration::from_secs_f64(preset.interval);
        rules.timeout = Duration::from_secs_f64(preset.timeout);
        rules.adaptive = preset.adaptive.map(|[min, max, step]| Adaptive {
            min: Duration::from_secs_f64(min),
            max: Duration::from_secs_f64(max),
            step: Duration::from_secs_f64(step),
        });
    }
    fields.duration("heartbeat.interval", TICK..=LONGEST, &mut rules.interval)?;
    fields.duration("heartbeat.timeout", TICK..=LONGEST, &mut rules.timeout)?;
    fields.small("heartbeat.missedLimit", 1..=1000, &mut rules.missed_limit)?;
    fields.choice(
        "heartbeat.mode",
        &[
            ("auto", Mode::Auto),
            ("fixed", Mode::Fixed),
            ("keepalive", Mode::Keepalive),
            ("passive", Mode::Passive),
            ("off", Mode::Off),
        ],
        &mut rules.mode,
    )?;
    if let Some(value) = fields.take("heartbeat.adaptive") {
        rules.adaptive = match value {
            Value::Null => None,
            value => Some(read_adaptive(fields, value)?),
        };
        if let Some(adaptive) = rules.adaptive
            && !fields.has("heartbeat.interval")
        {
            rules.interval = adaptive.min;
        }
    }
    beats.message = read_beat_text(fields, "heartbeat.message", max_message)?;
    beats.reply = read_beat_text(fields, "heartbeat.reply", max_message)?;
    if beats.reply.is_some() && beats.message.is_none() {
        return Err(fields.refuse("heartbeat.reply", "needs 'heartbeat.message', the beat that it answers"));
    }
    match fields.take("heartbeat.accept") {
        None => {}
        Some(Value::List(list)) if list.is_empty() => {}
        Some(Value::Map(entries)) => {
            for (beat, answer) in entries {
                let Value::Text(answer) = answer else {
                    return Err(fields.wrong("heartbeat.accept", "array of strings (['ping' => 'pong'])", answer));
                };
                let pair = (String::from_utf8(beat.clone()), String::from_utf8(answer.clone()));
                let (Ok(beat), Ok(answer)) = pair else {
                    return Err(fields.refuse("heartbeat.accept", "must hold valid UTF-8 (RFC 6455 section 5.6)"));
                };
                beats.accept.push((beat, answer));
            }
        }
        Some(Value::List(_)) => {
            return Err(fields.refuse(
                "heartbeat.accept",
                "must name each beat and its answer (['ping' => 'pong']), a list was given",
            ));
        }
        Some(other) => return Err(fields.wrong("heartbeat.accept", "array (['ping' => 'pong'])", other)),
    }
    Ok(beats)
}

/// `false`, `true`, or an array of what is to differ from the defaults.
fn read_compression(fields: &Fields<'_>) -> Result<Option<DeflateConfig>, OptionError> {
    const KEY: &str = "compression";
    const NAMES: &str = "level, contextTakeover, windowBits, threshold";
    let mut config = DeflateConfig::default();
    let entries = match fields.take(KEY) {
        None | Some(Value::Bool(false)) => return Ok(None),
        Some(Value::Bool(true)) => return Ok(Some(config)),
        Some(Value::List(list)) if list.is_empty() => return Ok(Some(config)),
        Some(Value::Map(entries)) => entries,
        Some(Value::List(_)) => {
            let problem = format!("must be an array of names to values ({NAMES}), a list was given");
            return Err(fields.refuse(KEY, &problem));
        }
        Some(other) => return Err(fields.wrong(KEY, &format!("bool or array ({NAMES})"), other)),
    };
    for (name, value) in entries {
        let small = |key, range| fields.int(key, "int", &range, value);
        match &name[..] {
            b"level" => config.level = small("compression.level", 1..=9)? as u8,
            b"windowBits" => config.window_bits = small("compression.windowBits", 9..=15)? as u8,
            b"threshold" => config.threshold = small("compression.threshold", 0..=BIGGEST)? as usize,
            b"contextTakeover" => match value {
                Value::Bool(on) => config.context_takeover = *on,
                other => return Err(fields.wrong("compression.contextTakeover", "bool", other)),
            },
            other => {
                let name = String::from_utf8_lossy(other);
                return Err(fields.unknown_in(KEY, &name, value, &NAMES.split(", ").collect::<Vec<_>>()));
            }
        }
    }
    Ok(Some(config))
}

/// How many, or an array of that and what is to differ from the defaults.
fn read_workers(fields: &Fields<'_>) -> Result<Workers, OptionError> {
    const KEY: &str = "workers";
    const NAMES: &str = "count, by, maxRequests, maxMemory, grace";
    let mut workers = Workers::default();
    let entries = match fields.take(KEY) {
        None => return Ok(workers),
        Some(value @ Value::Int(_)) => {
            workers.count = fields.int(KEY, "int", &(0..=MAX_WORKERS), value)? as usize;
            return Ok(workers);
        }
        Some(Value::Map(entries)) => entries.as_slice(),
        Some(Value::List(list)) if list.is_empty() => &[],
        Some(Value::List(_)) => {
            let problem = format!("must be an int or an array of names to values ({NAMES}), a list was given");
            return Err(fields.refuse(KEY, &problem));
        }
        Some(other) => return Err(fields.wrong(KEY, &format!("int or array ({NAMES})"), other)),
    };
    if !entries.iter().any(|(name, _)| name == b"count") {
        return Err(fields.refuse(KEY, &format!("needs 'count', how many there are to be (0 to {MAX_WORKERS})")));
    }
    for (name, value) in entries {
        match &name[..] {
            b"count" => workers.count = fields.int("workers.count", "int", &(0..=MAX_WORKERS), value)? as usize,
            b"by" => workers.by = read_worker_key(fields, value)?,
            b"maxRequests" => {
                workers.max_requests = match value {
                    Value::Null => None,
                    value => Some(fields.int("workers.maxRequests", "int or null", &(1..=BIGGEST), value)? as u64),
                }
            }
            b"maxMemory" => {
                let range = MIN_WORKER_MEMORY..=BIGGEST;
                workers.max_memory = match value {
                    Value::Null => None,
                    value => Some(fields.int("workers.maxMemory", "int (bytes) or null", &range, value)? as usize),
                }
            }
            b"grace" => {
                workers.grace = fields.seconds("workers.grace", "int|float (seconds)", TICK..=LONGEST, value)?;
            }
            other => {
                let name = String::from_utf8_lossy(other);
                return Err(fields.unknown_in(KEY, &name, value, &NAMES.split(", ").collect::<Vec<_>>()));
            }
        }
    }
    Ok(workers)
}

fn read_worker_key(fields: &Fields<'_>, value: &Value) -> Result<WorkerKey, OptionError> {
    const KEY: &str = "workers.by";
    const ALLOWED: &str = "'connection', 'user', 'header:NAME' or 'query:NAME'";
    let Value::Text(given) = value else { return Err(fields.wrong(KEY, &format!("string ({ALLOWED})"), value)) };
    let text = std::str::from_utf8(given).unwrap_or_default();
    let key = match text.split_once(':') {
        None if text == "connection" => Some(WorkerKey::Connection),
        None if text == "user" => Some(WorkerKey::User),
        Some(("header", name)) if is_token(name.as_bytes()) => Some(WorkerKey::Header(name.to_ascii_lowercase())),
        Some(("query", name)) if !name.is_empty() && !name.chars().any(char::is_control) => {
            Some(WorkerKey::Query(name.to_owned()))
        }
        _ => None,
    };
    key.ok_or_else(|| fields.refuse(KEY, &format!("must be {ALLOWED}, {} given", fields::shown_text(given))))
}

fn read_beat_text(fields: &Fields<'_>, key: &str, max_message: usize) -> Result<Option<String>, OptionError> {
    let Some(text) = fields.optional_text(key)? else { return Ok(None) };
    if text.is_empty() || text.len() > max_message {
        return Err(fields
            .refuse(key, &format!("must have 1 to {max_message} bytes (limits.maxMessage), {} given", text.len())));
    }
    Ok(Some(text))
}

fn read_adaptive(fields: &Fields<'_>, value: &Value) -> Result<Adaptive, OptionError> {
    let key = "heartbeat.adaptive";
    let expected = "array [min, max, step] of int|float (seconds) or null";
    let parts: Vec<&Value> = match value {
        Value::List(parts) if parts.len() == 3 => parts.iter().collect(),
        Value::List(parts) => {
            return Err(fields.refuse(key, &format!("must be [min, max, step], {} elements given", parts.len())));
        }
        Value::Map(entries) => {
            let known = ["min", "max", "step"];
            if let Some((name, _)) = entries.iter().find(|(name, _)| !known.iter().any(|k| k.as_bytes() == name)) {
                let name = fields::shown_text(name);
                return Err(fields.refuse(key, &format!("takes 'min', 'max' and 'step', {name} given")));
            }
            let parts: Vec<_> = known.iter().filter_map(|name| value.entry(name)).collect();
            if parts.len() != 3 {
                return Err(fields.refuse(key, "needs all of 'min', 'max' and 'step'"));
            }
            parts
        }
        other => return Err(fields.wrong(key, expected, other)),
    };
    let mut seconds = [Duration::ZERO; 3];
    for (slot, part) in seconds.iter_mut().zip(parts) {
        *slot = fields.seconds(key, expected, TICK..=LONGEST, part)?;
    }
    let [min, max, step] = seconds;
    if min > max {
        return Err(
            fields.refuse(key, &format!("must have min ≤ max, [{}, {}] given", min.as_secs_f64(), max.as_secs_f64()))
        );
    }
    Ok(Adaptive { min, max, step })
}

fn read_limits(fields: &Fields<'_>, default: &Limits) -> Result<Limits, OptionError> {
    let mut limits = default.clone();
    fields.count("limits.memory", 65_536..=BIGGEST, &mut limits.memory)?;
    fields.count("limits.maxMessage", 1..=BIGGEST, &mut limits.max_message)?;
    // A frame is at most a message: who raises or lowers one means both.
    limits.max_frame = limits.max_message;
    fields.count("limits.maxFrame", 1..=BIGGEST, &mut limits.max_frame)?;
    fields.small("limits.maxFragments", 1..=i64::from(u32::MAX), &mut limits.max_fragments)?;
    fields.count("limits.inbound", 1..=BIGGEST, &mut limits.inbound)?;
    fields.at_most("limits.maxFrame", limits.max_frame, "limits.maxMessage", limits.max_message)?;
    fields.at_most("limits.maxMessage", limits.max_message, "limits.memory", limits.memory)?;
    fields.at_most("limits.inbound", limits.inbound, "limits.memory", limits.memory)?;
    if fields.role() == Role::Server {
        fields.duration("limits.handshakeTimeout", TICK..=LONGEST, &mut limits.handshake_timeout)?;
        fields.count("limits.maxHeaderBytes", 256..=1_048_576, &mut limits.max_header_bytes)?;
    }
    Ok(limits)
}

fn read_reconnect(fields: &Fields<'_>) -> Result<Reconnect, OptionError> {
    let mut reconnect = Reconnect::default();
    let backoff = &mut reconnect.backoff;
    fields.duration("reconnect.base", TICK..=LONGEST, &mut backoff.base)?;
    fields.duration("reconnect.max", TICK..=LONGEST, &mut backoff.max)?;
    fields.number("reconnect.factor", 1.0..=100.0, &mut backoff.factor)?;
    fields.duration("reconnect.floor", 0.0..=LONGEST, &mut backoff.floor)?;
    fields.choice(
        "reconnect.jitter",
        &[
            ("full", Jitter::Full),
            ("equal", Jitter::Equal),
            ("decorrelated", Jitter::Decorrelated),
            ("none", Jitter::None),
        ],
        &mut backoff.jitter,
    )?;
    fields.optional_duration("reconnect.first", 0.0..=LONGEST, &mut backoff.first)?;
    if let Some(attempts) = fields.optional_int("reconnect.maxAttempts", 1..=i64::from(u32::MAX))? {
        backoff.max_attempts = u32::try_from(attempts).ok();
    }
    fields.duration("reconnect.stableAfter", 0.0..=LONGEST, &mut backoff.stable_after)?;
    let (base, max, floor) = (backoff.base, backoff.max, backoff.floor);
    for (key, value) in [("reconnect.base", base), ("reconnect.floor", floor)] {
        if value > max {
            let key = if fields.has(key) { key } else { "reconnect.max" };
            return Err(fields.refuse(
                key,
                &format!(
                    "breaks base ≤ max and floor ≤ max: base {}, floor {}, max {}",
                    base.as_secs_f64(),
                    floor.as_secs_f64(),
                    max.as_secs_f64()
                ),
            ));
        }
    }
    fields.choice("reconnect.mode", &[("eager", false), ("lazy", true)], &mut reconnect.lazy)?;
    fields.numbers("reconnect.terminalCodes", 1000..=4999, &mut reconnect.terminal_codes)?;
    fields.numbers("reconnect.terminalStatuses", 300..=599, &mut reconnect.terminal_statuses)?;
    Ok(reconnect)
}

fn read_origins(fields: &Fields<'_>) -> Result<Origins, OptionError> {
    let key = "origins";
    let expected = "string ('same-host', 'any') or list of strings";
    match fields.take(key) {
        None => Ok(Origins::SameHost),
        Some(Value::Text(name)) => match name.as_slice() {
            b"same-host" => Ok(Origins::SameHost),
            b"any" => Ok(Origins::Any),
            other => Err(fields.refuse(
                key,
                &format!(
                    "must be 'same-host', 'any' or a list of origins (['https://example.org']), {} given",
                    fields::shown_text(other)
                ),
            )),
        },
        Some(Value::List(list)) if list.is_empty() => {
            Err(fields.refuse(key, "must not be empty: every browser would be refused"))
        }
        Some(Value::List(list)) => {
            let mut origins = Vec::with_capacity(list.len());
            for item in list {
                let Value::Text(text) = item else { return Err(fields.wrong(key, expected, item)) };
                let Some(origin) = url::origin(text) else {
                    return Err(fields.refuse(
                        key,
                        &format!(
                            "must hold origins of the form scheme://host[:port], scheme://*.host (or 'null'), {} given",
                            fields::shown_text(text)
                        ),
                    ));
                };
                origins.push(origin);
            }
            Ok(Origins::List(origins))
        }
        Some(other) => Err(fields.wrong(key, expected, other)),
    }
}

fn read_protocols(fields: &Fields<'_>) -> Result<Vec<String>, OptionError> {
    let key = "protocols";
    let mut protocols: Vec<String> = Vec::new();
    for text in fields.texts(key)? {
        if !is_token(&text) {
            return Err(fields.refuse(
                key,
                &format!(
                    "must hold tokens (RFC 6455 section 4.1: visible ASCII without separators), {} given",
                    fields::shown_text(&text)
                ),
            ));
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        if protocols.contains(&text) {
            return Err(fields.refuse(key, &format!("names '{text}' twice")));
        }
        protocols.push(text);
    }
    Ok(protocols)
}

fn read_path(fields: &Fields<'_>, key: &str) -> Result<Option<String>, OptionError> {
    let Some(path) = fields.optional_text(key)? else { return Ok(None) };
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#');
    if !path.starts_with('/') || !path.bytes().all(allowed) {
        return Err(fields.refuse(
            key,
            &format!(
                "must begin with '/' and hold visible ASCII without '?' and '#', {} given",
                fields::shown_text(path.as_bytes())
            ),
        ));
    }
    Ok(Some(path))
}

fn read_static(fields: &Fields<'_>) -> Result<Option<StaticFiles>, OptionError> {
    let key = "static";
    let text = match fields.take(key) {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
        Some(Value::Bool(true)) => return Ok(Some(StaticFiles::default())),
        Some(Value::Text(text)) => text,
        Some(other) => {
            return Err(fields.wrong(key, "string (directory), bool (true: /lifeline.js alone) or null", other));
        }
    };
    let refuse = |why: &str| Err(fields.refuse(key, &format!("must name a directory: {why}")));
    if text.is_empty() || text.contains(&0) {
        return refuse("it is empty or contains NUL");
    }
    let given = Path::new(std::ffi::OsStr::from_bytes(text));
    let shown = fields::shown_text(text);
    match std::fs::read_dir(given) {
        Ok(_) => {}
        Err(error) => return refuse(&format!("cannot read {shown}: {error}")),
    }
    // Where PHP is now: it may change its directory. Symbolic links stay, since they may be changed later.
    let directory = std::path::absolute(given).unwrap_or_else(|_| given.to_owned());
    if std::fs::canonicalize(given).is_ok_and(|path| path.parent().is_none()) {
        return refuse(&format!("{shown} is the root of the file system, which would all be public"));
    }
    Ok(Some(StaticFiles { directory: Some(directory) }))
}

fn read_networks(fields: &Fields<'_>) -> Result<Vec<Network>, OptionError> {
    let key = "trustedProxies";
    let mut networks = Vec::new();
    for text in fields.texts(key)? {
        let network = std::str::from_utf8(&text).ok().and_then(parse_network);
        let Some(network) = network else {
            return Err(fields.refuse(
                key,
                &format!(
                    "must hold IP addresses or blocks in CIDR notation ('10.0.0.0/8', '2001:db8::/32'), {} given",
                    fields::shown_text(&text)
                ),
            ));
        };
        let whole = masked(network);
        if whole.address != network.address {
            return Err(fields.refuse(
                key,
                &format!(
                    "has bits set behind the prefix in {}: did you mean '{}/{}'?",
                    fields::shown_text(&text),
                    whole.address,
                    whole.prefix
                ),
            ));
        }
        networks.push(network);
    }
    Ok(networks)
}

fn parse_network(text: &str) -> Option<Network> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => {
            if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (address, Some(prefix.parse::<u8>().ok()?))
        }
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(bits);
    (prefix <= bits).then_some(Network { address, prefix })
}

fn masked(network: Network) -> Network {
    let address = match network.address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(network.prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    };
    Network { address, prefix: network.prefix }
}

fn read_server_tls(fields: &Fields<'_>) -> Result<Option<ServerTls>, OptionError> {
    let cert = fields.file("tls.cert")?;
    let key = fields.file("tls.key")?;
    let client_ca = fields.file("tls.clientCa")?;
    let mut sni = Vec::new();
    match fields.take("tls.sni") {
        None | Some(Value::Null) => {}
        Some(Value::List(list)) if list.is_empty() => {}
        Some(Value::Map(entries)) => {
            for (name, value) in entries {
                sni.push(read_sni(fields, name, value)?);
            }
        }
        Some(other) => return Err(fields.wrong("tls.sni", SNI, other)),
    }
    let Some(cert) = cert else {
        for (key, set) in
            [("tls.key", key.is_some()), ("tls.clientCa", client_ca.is_some()), ("tls.sni", !sni.is_empty())]
        {
            if set {
                return Err(fields.refuse(key, "needs 'tls.cert', the certificate for clients that name no server"));
            }
        }
        return Ok(None);
    };
    let key = key.unwrap_or_else(|| cert.clone());
    Ok(Some(ServerTls { cert, key, client_ca, sni }))
}

const SNI: &str = "array of server names to ['cert' => file, 'key' => file]";

fn read_sni(fields: &Fields<'_>, name: &[u8], value: &Value) -> Result<(String, PathBuf, PathBuf), OptionError> {
    let shown = fields::shown_text(name);
    let host = std::str::from_utf8(name).unwrap_or_default();
    if !url::is_host_name(host.strip_prefix("*.").unwrap_or(host)) {
        return Err(fields.refuse("tls.sni", &format!("must name DNS names ('*.' may begin them), {shown} given")));
    }
    let Value::Map(entries) = value else { return Err(fields.wrong("tls.sni", SNI, value)) };
    if let Some((other, _)) = entries.iter().find(|(key, _)| key != b"cert" && key != b"key") {
        let other = fields::shown_text(other);
        return Err(fields.refuse("tls.sni", &format!("takes 'cert' and 'key' for {shown}, {other} given")));
    }
    let file = |part: &str| -> Result<Option<PathBuf>, OptionError> {
        match value.entry(part) {
            None => Ok(None),
            Some(Value::Text(path)) => readable(path)
                .map(Some)
                .map_err(|problem| fields.refuse("tls.sni", &format!("has an unusable {part} for {shown}: {problem}"))),
            Some(other) => Err(fields.wrong("tls.sni", SNI, other)),
        }
    };
    let Some(cert) = file("cert")? else {
        return Err(fields.refuse("tls.sni", &format!("needs 'cert' for {shown}")));
    };
    let key = file("key")?.unwrap_or_else(|| cert.clone());
    Ok((host.to_ascii_lowercase(), cert, key))
}

fn read_client_tls(fields: &Fields<'_>) -> Result<ClientTls, OptionError> {
    let mut tls = ClientTls {
        ca: fields.file("tls.ca")?,
        cert: fields.file("tls.cert")?,
        key: fields.file("tls.key")?,
        ..ClientTls::default()
    };
    fields.flag("tls.verify", &mut tls.verify)?;
    if tls.key.is_some() && tls.cert.is_none() {
        return Err(fields.refuse("tls.key", "needs 'tls.cert'"));
    }
    if tls.key.is_none() {
        tls.key.clone_from(&tls.cert);
    }
    Ok(tls)
}

/// Opens the file once, so that a wrong path is found where it was written.
fn readable(path: &[u8]) -> Result<PathBuf, String> {
    let shown = fields::shown_text(path);
    let Ok(text) = std::str::from_utf8(path) else { return Err(format!("{shown} is not UTF-8")) };
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{shown} is not a file name"));
    }
    let path = Path::new(text);
    let kind = std::fs::File::open(path).and_then(|file| file.metadata());
    match kind {
        Ok(metadata) if metadata.is_dir() => Err(format!("{shown} is a directory")),
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(format!("cannot read {shown}: {error}")),
    }
}

fn read_admin(fields: &Fields<'_>) -> Result<Option<ListenAddress>, OptionError> {
    let Some(text) = fields.optional_text("admin")? else { return Ok(None) };
    let allowed = "must be 'host:port' ('127.0.0.1:9090') or 'unix:///path'";
    let shown = fields::shown_text(text.as_bytes());
    if text.starts_with("unix://") {
        return listen_address(text.as_bytes())
            .map(Some)
            .map_err(|problem| fields.refuse("admin", &format!("{allowed}: {problem}")));
    }
    match url::authority(&text) {
        Err(_) if text.contains('@') => Err(fields.refuse("admin", &format!("{allowed}, {shown} given"))),
        Ok((host, Some(port))) if !host.is_empty() => Ok(Some(ListenAddress::Tcp { host, port, tls: false })),
        Ok(_) => Err(fields.refuse("admin", &format!("{allowed}, {shown} given"))),
        Err(problem) => Err(fields.refuse("admin", &format!("{allowed}, {shown}: {problem}"))),
    }
}

fn read_proxy(fields: &Fields<'_>) -> Result<Proxy, OptionError> {
    let key = "connect.proxy";
    match fields.take(key) {
        None | Some(Value::Null) => Ok(Proxy::Environment),
        Some(Value::Bool(false)) => Ok(Proxy::Direct),
        Some(Value::Text(text)) => url::proxy(text).map_err(|problem| {
            fields.refuse(key, &format!("must be 'http://[user:password@]host:port' or false (none): {problem}"))
        }),
        Some(other) => Err(fields.wrong(key, "string (URL), false (none) or null (from the environment)", other)),
    }
}

fn read_log_level(fields: &Fields<'_>) -> Result<LogLevel, OptionError> {
    let mut level = LogLevel::Warning;
    fields.choice(
        "logLevel",
        &[
            ("debug", LogLevel::Debug),
            ("info", LogLevel::Info),
            ("notice", LogLevel::Notice),
            ("warning", LogLevel::Warning),
            ("error", LogLevel::Error),
            ("critical", LogLevel::Critical),
            ("alert", LogLevel::Alert),
            ("emergency", LogLevel::Emergency),
        ],
        &mut level,
    )?;
    // Its kind is the application's affair.
    let _ = fields.take("logger");
    Ok(level)
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

#[cfg(test)]
mod tests;
