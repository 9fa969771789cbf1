//! What the engine is told at start: already checked and typed. `src/options.rs` makes these from
//! PHP arrays; each `Default` is the documented default.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeline_proto::backoff::BackoffConfig;
pub use lifeline_proto::deflate::DeflateConfig;
use lifeline_proto::heartbeat::HeartbeatConfig;
use lifeline_proto::outbox::OutboxConfig;
use lifeline_proto::v1::wire::PROTOCOL;

use crate::activation::Inheritance;
use crate::bridge::LogLevel;
use crate::service::Manager;

const MIB: usize = 1024 * 1024;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `ws://host:port` or, with `tls`, `wss://host:port`. IPv6 hosts come without brackets.
    Tcp { host: String, port: u16, tls: bool },
    /// `unix:///path/to.sock`.
    Unix { path: PathBuf },
    /// `systemd:name`, or with `tls` `systemd+wss:name`: the sockets of that name that a service manager has
    /// passed; without a name, all that are left. Servers only.
    Passed { name: Option<String>, tls: bool },
}

/// A server's options.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub listen: Vec<ListenAddress>,
    pub heartbeat: Beats,
    pub idle_timeout: Option<Duration>,
    pub idle_evict: bool,
    pub limits: Limits,
    pub server_limits: ServerLimits,
    pub send: SendConfig,
    /// permessage-deflate; `None`: it is declined.
    pub compression: Option<DeflateConfig>,
    pub origins: Origins,
    /// Subprotocols in order of preference.
    pub protocols: Vec<String>,
    /// Accepted path; others get 404.
    pub path: Option<String>,
    /// A plain GET on it is answered 200 without PHP.
    pub health_path: Option<String>,
    /// What other plain GETs are answered with, without PHP; `None`: they are refused.
    pub static_files: Option<StaticFiles>,
    pub trusted_proxies: Vec<Network>,
    pub proxy_protocol: bool,
    pub tls: Option<ServerTls>,
    pub watchdog: Watchdog,
    /// Where metrics, health and the status page are: TCP without TLS, or a Unix socket.
    pub admin: Option<ListenAddress>,
    pub log_level: LogLevel,
    /// None: min(cores, 4).
    pub io_threads: Option<usize>,
    pub reuse_port: bool,
    pub backlog: u32,
    /// Processes that run the application's callbacks.
    pub workers: Workers,
    /// The application decides handshakes (onHandshake is set).
    pub ask_handshake: bool,
    pub sessions: Sessions,
    /// The application decides who may have a session (onAuth is set).
    pub authenticate: bool,
    /// The application decides who may subscribe (onSubscribe is set); else nobody may.
    pub authorise: bool,
    /// The application can tell the state of channels (onSnapshot is set).
    pub snapshots: bool,
    /// The application wants `Join` and `Leave` (onJoin or onLeave is set).
    pub announce_members: bool,
    /// Sockets that a service manager has passed to the process.
    pub inherited: Arc<Inheritance>,
    /// The service manager, where it wants to be told; or why it cannot be, for the log.
    pub manager: Result<Option<Manager>, String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddress::Tcp { host: "127.0.0.1".into(), port: 8080, tls: false }],
            heartbeat: Beats::default(),
            idle_timeout: None,
            idle_evict: false,
            limits: Limits { memory: 1024 * MIB, ..Limits::default() },
            server_limits: ServerLimits::default(),
            send: SendConfig::default(),
            compression: None,
            origins: Origins::SameHost,
            protocols: Vec::new(),
            path: None,
            health_path: None,
            static_files: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            tls: None,
            watchdog: Watchdog::default(),
            admin: None,
            log_level: LogLevel::Warning,
            io_threads: None,
            reuse_port: false,
            backlog: 4096,
            workers: Workers::default(),
            ask_handshake: false,
            sessions: Sessions::default(),
            authenticate: false,
            authorise: false,
            snapshots: false,
            announce_members: false,
            inherited: Arc::default(),
            manager: Ok(None),
        }
    }
}

/// The processes that run a server's callbacks, in place of the one that holds its sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// How many; 0: the process runs the callbacks itself.
    pub count: usize,
    pub by: WorkerKey,
    /// Messages after which a worker is replaced, give or take a tenth; `None`: never.
    pub max_requests: Option<u64>,
    /// Bytes of resident memory from which on it is replaced; `None`: never.
    pub max_memory: Option<usize>,
    /// How long a worker that is replaced may take for what it has begun, and a new one to call `run()`.
    pub grace: Duration,
}

impl Default for Workers {
    fn default() -> Self {
        let (max_requests, max_memory) = (None, None);
        Self { count: 0, by: WorkerKey::Connection, max_requests, max_memory, grace: Duration::from_secs(30) }
    }
}

/// Which connections go to the same worker. Those without the value go to the one that has the fewest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerKey {
    /// None have to: each goes to the worker that has the fewest.
    Connection,
    /// Those of a session's user.
    User,
    /// Those with the same value of a request header.
    Header(String),
    /// Those with the same value of a parameter of the request's query.
    Query(String),
}

/// How a worker is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// `None`: the gateway's own.
    pub directory: Option<PathBuf>,
}

/// What a server has for plain GETs: the browser's client as `/lifeline.js`, and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaticFiles {
    /// What is below it is public, but for hidden names and PHP sources. An absolute path.
    pub directory: Option<PathBuf>,
}

/// What a server keeps for clients that speak `lifeline.v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// `resume.count` and `resume.bytes`: of each session's stream and each channel's log.
    pub resume_count: usize,
    pub resume_bytes: usize,
    /// Life of a session without a connection.
    pub resume_ttl: Duration,
    /// Life of an outbox's marks without a connection.
    pub dedupe_ttl: Duration,
    /// Attempts of one item before it is refused for good.
    pub redelivery_limit: u32,
    pub max_sessions: usize,
    /// The directory of the store; `None`: in memory.
    pub store: Option<PathBuf>,
    /// Items are acknowledged by the application, not when their handler has returned.
    pub manual_ack: bool,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            resume_count: 1000,
            resume_bytes: MIB,
            resume_ttl: Duration::from_secs(120),
            dedupe_ttl: Duration::from_secs(7 * 24 * 3600),
            redelivery_limit: 5,
            max_sessions: 100_000,
            store: None,
            manual_ack: false,
        }
    }
}

/// Heartbeat options, both roles.
#[derive(Debug, Clone, Default)]
pub struct Beats {
    pub rules: HeartbeatConfig,
    /// Text sent in place of ping frames.
    pub message: Option<String>,
    /// The peer's answer to `message`: recognised and swallowed.
    pub reply: Option<String>,
    /// The peer's own beats and their answers, handled without PHP.
    pub accept: Vec<(String, String)>,
}

/// Limits of both roles. Sizes in bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    pub memory: usize,
    pub max_message: usize,
    pub max_frame: usize,
    pub max_fragments: u32,
    /// Bytes a connection may have waiting for the application before its reads pause.
    pub inbound: usize,
    /// How long a handshake may take on the network; also bounds the close handshake.
    pub handshake_timeout: Duration,
    pub max_header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 256 * MIB,
            max_message: MIB,
            max_frame: MIB,
            max_fragments: 131_072,
            inbound: MIB,
            handshake_timeout: Duration::from_secs(10),
            max_header_bytes: 16 * 1024,
        }
    }
}

/// Limits that only a server has. 0: none (the process's file descriptors bound `max_connections`).
#[derive(Debug, Clone)]
pub struct ServerLimits {
    pub max_connections: usize,
    pub per_ip: usize,
    pub max_channels: usize,
    pub max_subscriptions: usize,
    /// How long a handshake may wait for the application.
    pub auth_timeout: Duration,
    /// Messages a second a connection, token bucket with one second of burst.
    pub message_rate: Option<f64>,
    /// Bytes a second a connection.
    pub byte_rate: Option<f64>,
    pub rate_action: RateAction,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 0,
            per_ip: 0,
            max_channels: 100_000,
            max_subscriptions: 128,
            auth_timeout: Duration::from_secs(60),
            message_rate: None,
            byte_rate: None,
            rate_action: RateAction::Pause,
        }
    }
}

/// What happens to a connection over its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateAction {
    Pause,
    Close,
}

/// Send buffer of one connection.
#[derive(Debug, Clone)]
pub struct SendConfig {
    pub limit: usize,
    pub policy: SlowConsumer,
}

impl Default for SendConfig {
    fn default() -> Self {
        Self { limit: MIB, policy: SlowConsumer::Close }
    }
}

/// What happens to a peer that reads too slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowConsumer {
    Close,
    DropOldest,
    DropNewest,
}

/// Which `Origin` headers are accepted. A request without one (not a browser) always passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    SameHost,
    Any,
    /// `scheme://host[:port]` or `null`; `*.` before the host stands for any depth of subdomains,
    /// `:*` for any port.
    List(Vec<String>),
}

/// An address block in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

/// A server's certificate and how it asks for the client's.
#[derive(Debug, Clone, Default)]
pub struct ServerTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// CA file; set: clients must present a certificate signed by it (mTLS).
    pub client_ca: Option<PathBuf>,
    /// Further certificates by server name: (name, cert, key). `*.example.org` matches one label.
    pub sni: Vec<(String, PathBuf, PathBuf)>,
}

/// What the watchdog does when the application has not dispatched for `lag`.
#[derive(Debug, Clone)]
pub struct Watchdog {
    pub lag: Duration,
    pub action: WatchdogAction,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { lag: Duration::from_secs(30), action: WatchdogAction::Log }
    }
}

/// See [`Watchdog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogAction {
    Log,
    Unready,
    Drain,
    /// Of a worker that has not: it is killed, another one is started in its place. Only where there are workers.
    Replace,
}

/// A client's options.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Tried in order (failover).
    pub urls: Vec<ClientUrl>,
    pub heartbeat: Beats,
    pub reconnect: Reconnect,
    pub connect_timeout: Duration,
    /// Sent with each attempt.
    pub headers: Vec<(String, String)>,
    pub proxy: Proxy,
    /// Subprotocols offered, in order of preference; `lifeline.v1` is spoken where the server chooses it.
    pub protocols: Vec<String>,
    pub outbox: OutboxConfig,
    /// Where the outbox is; `None`: in memory.
    pub storage: Option<Storage>,
    /// permessage-deflate; `None`: it is not offered.
    pub compression: Option<DeflateConfig>,
    pub limits: Limits,
    pub tls: ClientTls,
    pub log_level: LogLevel,
    /// The application supplies headers for each attempt (onConnecting is set).
    pub ask_headers: bool,
    /// The application supplies the token of HELLO (onToken is set).
    pub ask_token: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            heartbeat: Beats::default(),
            reconnect: Reconnect::default(),
            connect_timeout: Duration::from_secs(10),
            headers: Vec::new(),
            proxy: Proxy::Environment,
            protocols: vec![PROTOCOL.to_owned()],
            outbox: OutboxConfig::default(),
            storage: None,
            compression: None,
            limits: Limits::default(),
            tls: ClientTls::default(),
            log_level: LogLevel::Warning,
            ask_headers: false,
            ask_token: false,
        }
    }
}

/// An outbox on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// A directory of its own.
    pub path: PathBuf,
    pub durability: Durability,
}

/// When a message that was sent is on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// When `send()` returns.
    #[default]
    Always,
    /// Given to the system when `send()` returns; what was sent in the last second may be lost with the
    /// machine's power, nothing with the process.
    Interval,
    /// When it has not been acknowledged within a second; with the process or the machine those of the last
    /// second may be lost.
    Spill,
}

/// A parsed `ws://`, `wss://` or `unix://` URL. A fragment is refused (RFC 6455 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientUrl {
    pub target: ListenAddress,
    /// Path and query, at least `/`.
    pub resource: String,
    /// `user:password` of the URL, sent as HTTP basic authentication.
    pub credentials: Option<String>,
}

impl ClientUrl {
    /// The server as people name it: without credentials, path and query, which may hold secrets.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.target {
            ListenAddress::Unix { path } => format!("unix://{}", path.display()),
            ListenAddress::Passed { .. } => "systemd:".to_owned(),
            ListenAddress::Tcp { host, port, tls } => {
                let scheme = if *tls { "wss" } else { "ws" };
                format!("{scheme}://{}", crate::dial::proxy::authority(host, *port))
            }
        }
    }
}

/// When and how a client reconnects.
#[derive(Debug, Clone)]
pub struct Reconnect {
    pub backoff: BackoffConfig,
    pub lazy: bool,
    pub terminal_codes: Vec<u16>,
    pub terminal_statuses: Vec<u16>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            backoff: BackoffConfig::default(),
            lazy: false,
            terminal_codes: vec![1002, 1003, 1007, 1009, 1010],
            terminal_statuses: vec![400, 403, 404, 410, 426],
        }
    }
}

/// Which HTTP proxy a client dials through (`CONNECT`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// `https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`, in either case.
    Environment,
    /// Never.
    Direct,
    /// `http://[user:password@]host:port`.
    Http { host: String, port: u16, credentials: Option<String> },
}

/// How a client checks the server and shows itself.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// CA file in place of the system's.
    pub ca: Option<PathBuf>,
    /// False: accept any certificate. For tests.
    pub verify: bool,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl Default for ClientTls {
    fn default() -> Self {
        Self { ca: None, verify: true, cert: None, key: None }
    }
}
