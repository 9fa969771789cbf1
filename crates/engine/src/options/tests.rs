use super::*;
use crate::config::ClientUrl;
use Value::{Bool, Float, Int, List, Map, Null};

fn text(text: &str) -> Value {
    Value::Text(text.as_bytes().to_vec())
}

fn texts(items: &[&str]) -> Value {
    List(items.iter().map(|item| text(item)).collect())
}

fn map(entries: &[(&str, Value)]) -> Value {
    Map(entries.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect())
}

/// `a.b` and a value as the nested array that a user would write.
fn nested(path: &str, value: Value) -> Value {
    match path.split_once('.') {
        Some((group, name)) => map(&[(group, map(&[(name, value)]))]),
        None => map(&[(path, value)]),
    }
}

fn other() -> Value {
    Value::Other("stdClass".into())
}

fn file() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").to_owned()
}

/// As text, so that both roles compare alike.
fn read(role: Role, options: &Value) -> Result<String, OptionError> {
    match role {
        Role::Server => {
            let secure = options.entry("tls").and_then(|tls| tls.entry("cert")).is_some_and(|cert| *cert != Null);
            let listen = if secure { "wss://[::1]:8443" } else { "ws://127.0.0.1:8080" };
            server(&text(listen), options).map(|config| format!("{config:?}"))
        }
        Role::Client => client(&text("ws://127.0.0.1:8080/"), options).map(|config| format!("{config:?}")),
    }
}

struct Case {
    path: &'static str,
    /// Each changes the configuration.
    valid: Vec<Value>,
    /// Each gives a `Type` error.
    wrong: Vec<Value>,
    /// Each gives a `Value` error.
    refused: Vec<Value>,
}

fn seconds(path: &'static str, zero: bool, nullable: bool) -> Case {
    let mut case = Case {
        path,
        valid: vec![Int(7), Float(0.125)],
        wrong: vec![text("7"), Bool(true), List(vec![]), other()],
        refused: vec![Int(-1), Float(-0.5), Float(f64::NAN), Float(f64::INFINITY), Float(1e12)],
    };
    if zero {
        case.valid.push(Int(0));
    } else {
        case.refused.push(Int(0));
    }
    if !nullable {
        case.wrong.push(Null);
    }
    case
}

fn int(path: &'static str, low: i64, high: i64) -> Case {
    Case {
        path,
        valid: vec![Int(low.max(70_000).min(high))],
        wrong: vec![text("1"), Float(1.0), Bool(true), Null, List(vec![]), other()],
        refused: vec![Int(low - 1), Int(high + 1), Int(i64::MIN), Int(i64::MAX)],
    }
}

fn flag(path: &'static str, value: bool) -> Case {
    Case { path, valid: vec![Bool(value)], wrong: vec![Int(1), text("yes"), Null, List(vec![])], refused: vec![] }
}

fn choice(path: &'static str, valid: &[&str]) -> Case {
    Case {
        path,
        valid: valid.iter().map(|name| text(name)).collect(),
        wrong: vec![Int(1), Bool(true), List(vec![]), other()],
        refused: vec![text(""), text("nonsense"), text(&valid[0].to_uppercase())],
    }
}

fn name(path: &'static str, valid: &[&str], refused: &[&str]) -> Case {
    Case {
        path,
        valid: valid.iter().map(|name| text(name)).collect(),
        wrong: vec![Int(1), Bool(true), List(vec![]), other()],
        refused: refused.iter().map(|name| text(name)).chain([Value::Text(vec![b'/', 0xFF])]).collect(),
    }
}

fn cases() -> Vec<Case> {
    let not_a_list = || vec![text("x"), Int(1), Null, map(&[("a", text("b"))]), List(vec![Null]), other()];
    let file = file();
    vec![
        seconds("heartbeat.interval", false, false),
        seconds("heartbeat.timeout", false, false),
        Case { valid: vec![Int(3)], ..int("heartbeat.missedLimit", 1, 1000) },
        choice("heartbeat.mode", &["fixed", "keepalive", "passive", "off"]),
        Case {
            path: "heartbeat.adaptive",
            valid: vec![
                List(vec![Int(10), Float(60.5), Int(5)]),
                List(vec![Int(10), Int(10), Int(5)]),
                map(&[("step", Int(1)), ("min", Int(2)), ("max", Int(3))]),
            ],
            wrong: vec![Int(10), text("10"), Bool(true), List(vec![Int(1), Int(2), text("3")])],
            refused: vec![
                List(vec![]),
                List(vec![Int(10), Int(60)]),
                List(vec![Int(60), Int(10), Int(5)]),
                List(vec![Int(0), Int(10), Int(5)]),
                List(vec![Int(1), Float(f64::NAN), Int(5)]),
                map(&[("min", Int(2)), ("max", Int(3))]),
                map(&[("min", Int(2)), ("max", Int(3)), ("steps", Int(1))]),
            ],
        },
        name("heartbeat.message", &["{\"type\":\"ping\"}"], &[""]),
        // Its valid form needs `heartbeat.message`: see `a_reply_needs_a_message`.
        Case { valid: vec![], ..name("heartbeat.reply", &[], &["pong"]) },
        Case {
            path: "heartbeat.accept",
            valid: vec![map(&[("ping", text("pong"))]), map(&[("2", text("3")), ("", text(""))])],
            wrong: vec![text("ping"), Int(1), Null, map(&[("ping", Int(1))])],
            refused: vec![texts(&["ping"]), map(&[("ping", Value::Text(vec![0xFF]))])],
        },
        choice("heartbeat.preset", &["nginx", "aws-elb", "cloudflare", "grpc", "mobile"]),
        seconds("idle.timeout", false, true),
        flag("idle.evict", true),
        seconds("reconnect.base", false, false),
        Case { valid: vec![Int(60)], ..seconds("reconnect.max", false, false) },
        Case {
            path: "reconnect.factor",
            valid: vec![Int(1), Float(1.5), Int(100)],
            wrong: vec![text("2"), Null, Bool(true), List(vec![])],
            refused: vec![Float(0.99), Int(101), Int(-2), Float(f64::NAN)],
        },
        seconds("reconnect.floor", true, false),
        choice("reconnect.jitter", &["equal", "decorrelated", "none"]),
        seconds("reconnect.first", true, true),
        Case { wrong: vec![text("1"), Float(1.0), Bool(true)], ..int("reconnect.maxAttempts", 1, i64::from(u32::MAX)) },
        seconds("reconnect.stableAfter", true, false),
        choice("reconnect.mode", &["lazy"]),
        Case {
            path: "reconnect.terminalCodes",
            valid: vec![List(vec![]), List(vec![Int(1008), Int(4001)])],
            wrong: vec![Int(1008), Null, List(vec![text("1008")]), map(&[("a", Int(1008))])],
            refused: vec![List(vec![Int(999)]), List(vec![Int(5000)])],
        },
        Case {
            path: "reconnect.terminalStatuses",
            valid: vec![List(vec![]), List(vec![Int(401), Int(500)])],
            wrong: vec![Int(401), Null, List(vec![text("401")])],
            refused: vec![List(vec![Int(200)]), List(vec![Int(600)])],
        },
        seconds("connect.timeout", false, false),
        Case {
            path: "connect.headers",
            valid: vec![map(&[("Authorization", text("Bearer x"))]), map(&[("X-A", texts(&["1", "2"]))])],
            wrong: vec![text("X: y"), Null, texts(&["X: y"]), map(&[("X", Int(1))]), map(&[("X", List(vec![Null]))])],
            refused: vec![
                map(&[("X Y", text("1"))]),
                map(&[("", text("1"))]),
                map(&[("X", text("1\r\nEvil: 2"))]),
                map(&[("X", text("1\0"))]),
                map(&[("Host", text("a"))]),
                map(&[("sec-websocket-key", text("a"))]),
                map(&[("Sec-WebSocket-Protocol", text("a"))]),
                map(&[("X", Value::Text(vec![0xFF]))]),
            ],
        },
        Case {
            path: "connect.proxy",
            valid: vec![Bool(false), text("http://proxy.example:3128"), text("http://me:p%40ss@[::1]:8080/")],
            wrong: vec![Bool(true), Int(1), List(vec![])],
            refused: vec![
                text(""),
                text("proxy:3128"),
                text("socks5://proxy:1080"),
                text("http://"),
                text("http://proxy:0"),
                text("http://proxy:1/x"),
            ],
        },
        int("outbox.limit", 1, i64::from(i32::MAX)),
        int("outbox.bytes", 1, 1 << 50),
        choice("outbox.overflow", &["block", "dropOldest", "dropNewest"]),
        seconds("outbox.blockTimeout", true, true),
        Case { valid: vec![Int(7), Float(0.125), Null], ..seconds("outbox.ttl", false, true) },
        Case {
            path: "outbox.path",
            valid: vec![text("/nowhere/yet"), text("relative")],
            wrong: vec![Int(1), Bool(true), List(vec![])],
            refused: vec![text(""), text("/dev/null"), text("a\0b")],
        },
        // Its valid forms need `outbox.path`: see `an_outbox_on_disk`.
        Case { valid: vec![], refused: vec![text(""), text("Always")], ..choice("outbox.durability", &["interval"]) },
        Case { valid: vec![Int(64 << 20)], ..int("limits.memory", 65_536, 1 << 50) },
        int("limits.maxMessage", 1, 1 << 50),
        int("limits.maxFrame", 1, 1 << 20),
        int("limits.maxFragments", 1, i64::from(u32::MAX)),
        int("limits.inbound", 1, 1 << 50),
        int("limits.maxConnections", 0, i64::from(i32::MAX)),
        int("limits.perIp", 0, i64::from(i32::MAX)),
        int("limits.maxChannels", 1, i64::from(i32::MAX)),
        int("limits.maxSubscriptions", 1, i64::from(i32::MAX)),
        seconds("limits.handshakeTimeout", false, false),
        seconds("limits.authTimeout", false, false),
        int("limits.maxHeaderBytes", 256, 1 << 20),
        int("limits.maxSessions", 1, i64::from(i32::MAX)),
        rate("limits.messageRate"),
        rate("limits.byteRate"),
        choice("limits.rateAction", &["close"]),
        int("send.limit", 1, 1 << 50),
        choice("send.policy", &["dropOldest", "dropNewest"]),
        Case {
            path: "compression",
            valid: vec![
                Bool(true),
                List(vec![]),
                map(&[
                    ("level", Int(9)),
                    ("contextTakeover", Bool(true)),
                    ("windowBits", Int(9)),
                    ("threshold", Int(0)),
                ]),
            ],
            wrong: vec![Int(1), text("true"), Null, Float(1.0), other()],
            refused: vec![List(vec![Int(1)])],
        },
        choice("ack", &["manual"]),
        int("redelivery.limit", 1, 1000),
        seconds("resume.ttl", true, false),
        int("resume.count", 1, i64::from(i32::MAX)),
        int("resume.bytes", 1, 1 << 50),
        seconds("dedupe.ttl", true, false),
        Case {
            path: "store",
            valid: vec![text("file:///nowhere/yet")],
            wrong: vec![Int(1), Bool(true), Null, List(vec![])],
            refused: vec![
                text(""),
                text("disk"),
                text("file://relative"),
                text("file:///dev/null"),
                text("file:///"),
                text("file:////"),
                text("file:///a\0b"),
                text("redis://localhost"),
            ],
        },
        Case {
            path: "origins",
            valid: vec![
                text("any"),
                texts(&[
                    "https://example.org",
                    "http://localhost:3000",
                    "null",
                    "https://*.example.org",
                    "http://localhost:*",
                ]),
            ],
            wrong: vec![Int(1), Bool(true), Null, List(vec![Int(1)]), map(&[("a", text("https://a"))])],
            refused: vec![
                text("*"),
                text("https://example.org"),
                List(vec![]),
                texts(&["example.org"]),
                texts(&["*"]),
                texts(&["https://example.org/"]),
                texts(&["https://"]),
                texts(&["https://exämple.org"]),
                texts(&["https://*"]),
                texts(&["https://a.*.org"]),
            ],
        },
        Case {
            path: "protocols",
            valid: vec![texts(&["chat.v2", "chat.v1"])],
            wrong: not_a_list(),
            refused: vec![texts(&["a", "a"]), texts(&[""]), texts(&["a b"]), texts(&["a,b"]), texts(&["é"])],
        },
        name("path", &["/ws", "/"], &["", "ws", "/a?b", "/a#b", "/a b", "/é"]),
        name("healthPath", &["/healthz"], &["", "healthz", "/a?b"]),
        Case {
            path: "static",
            valid: vec![text("."), Bool(true)],
            wrong: vec![Int(1), Float(1.0), List(vec![]), List(vec![text(".")])],
            refused: vec![text(""), text("a\0b"), text("/"), text("/nonexistent"), text(&file), text("/tmp/..")],
        },
        Case {
            path: "trustedProxies",
            valid: vec![texts(&["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "0.0.0.0/0", "::/0"])],
            wrong: not_a_list(),
            refused: vec![
                texts(&["10.0.0.1/8"]),
                texts(&["2001:db8::1/32"]),
                texts(&["10.0.0.0/33"]),
                texts(&["10.0.0.0/"]),
                texts(&["10.0.0.0/+8"]),
                texts(&["::/129"]),
                texts(&["proxy.example"]),
                texts(&[""]),
            ],
        },
        flag("proxyProtocol", true),
        name("tls.cert", &[file.as_str()], &["", "/nonexistent.pem", "/", "a\0b"]),
        // Their valid forms need `tls.cert`: see `tls_files`.
        Case { valid: vec![], ..name("tls.key", &[], &["/nonexistent.pem"]) },
        Case { valid: vec![], ..name("tls.clientCa", &[], &["/nonexistent.pem"]) },
        Case {
            path: "tls.sni",
            valid: vec![],
            wrong: vec![text("x"), Int(1), List(vec![text("x")]), map(&[("example.org", text("x"))])],
            refused: vec![
                map(&[("example.org", map(&[("cert", text(&file))]))]),
                map(&[("example.org", map(&[("key", text(&file))]))]),
                map(&[("example.org", map(&[("cert", text("/nonexistent.pem"))]))]),
                map(&[("example.org", map(&[("crt", text(&file))]))]),
                map(&[("*", map(&[("cert", text(&file))]))]),
            ],
        },
        name("tls.ca", &[file.as_str()], &["", "/nonexistent.pem"]),
        flag("tls.verify", false),
        seconds("watchdog.lag", false, false),
        choice("watchdog.action", &["unready", "drain"]),
        name(
            "admin",
            &["127.0.0.1:9090", "[::1]:0", "localhost:1", "unix:///run/admin.sock"],
            &["", "9090", "127.0.0.1", ":9090", "a:70000", "::1:1", "a:b", "unix://x"],
        ),
        // Checked by the application.
        Case { path: "logger", valid: vec![], wrong: vec![], refused: vec![] },
        choice("logLevel", &["debug", "info", "notice", "error", "critical", "alert", "emergency"]),
        Case {
            path: "ioThreads",
            valid: vec![Int(1), Int(64)],
            wrong: vec![text("1"), Float(1.0), Bool(true)],
            refused: vec![Int(0), Int(65), Int(-1)],
        },
        flag("reusePort", true),
        Case { valid: vec![Int(1), Int(65_535)], ..int("backlog", 1, 65_535) },
        Case {
            path: "workers",
            valid: vec![
                Int(1),
                Int(256),
                map(&[("count", Int(2))]),
                map(&[
                    ("count", Int(4)),
                    ("by", text("user")),
                    ("maxRequests", Int(1)),
                    ("maxMemory", Int(16 << 20)),
                    ("grace", Float(0.5)),
                ]),
            ],
            wrong: vec![text("2"), Bool(true), Float(2.0), Null, other()],
            refused: vec![
                Int(-1),
                Int(257),
                List(vec![]),
                List(vec![Int(2)]),
                map(&[("by", text("user"))]),
                map(&[("count", Int(2)), ("number", Int(2))]),
            ],
        },
    ]
}

fn rate(path: &'static str) -> Case {
    Case {
        path,
        valid: vec![Int(100), Float(0.5)],
        wrong: vec![text("1"), Bool(true), List(vec![])],
        refused: vec![Int(0), Int(-1), Float(f64::NAN), Float(f64::INFINITY)],
    }
}

#[test]
fn every_option_takes_what_it_documents_and_nothing_else() {
    let cases = cases();
    assert_eq!(
        cases.iter().map(|case| case.path).collect::<Vec<_>>(),
        KEYS.iter().map(|key| key.path).collect::<Vec<_>>()
    );
    for (case, key) in cases.iter().zip(KEYS) {
        for role in [Role::Server, Role::Client].into_iter().filter(|role| key.allows(*role)) {
            let default = read(role, &List(vec![])).unwrap();
            for value in &case.valid {
                let config = read(role, &nested(key.path, value.clone()));
                match config {
                    Ok(config) => assert_ne!(config, default, "{} {value:?} changes nothing", key.path),
                    Err(error) => panic!("{} {value:?}: {error}", key.path),
                }
            }
            for value in &case.wrong {
                let error = read(role, &nested(key.path, value.clone()));
                let Err(OptionError::Type(text)) = error else { panic!("{} {value:?}: {error:?}", key.path) };
                assert!(text.contains(&format!("'{}'", key.path)), "{text}");
                assert!(text.starts_with(role.class()), "{text}");
                assert!(text.contains(" must be "), "{text}");
                assert!(text.ends_with(" given"), "{text}");
            }
            for value in &case.refused {
                let error = read(role, &nested(key.path, value.clone()));
                let Err(OptionError::Value(text)) = error else { panic!("{} {value:?}: {error:?}", key.path) };
                assert!(text.contains(&format!("'{}'", key.path)), "{text}");
                assert!(text.starts_with(role.class()), "{text}");
            }
        }
    }
}

#[test]
fn an_option_of_the_other_class_says_whose_it_is() {
    for key in KEYS.iter().filter(|key| key.server != key.client) {
        let (role, owner) = if key.server { (Role::Client, "WsServer") } else { (Role::Server, "WsClient") };
        let Err(OptionError::Value(text)) = read(role, &nested(key.path, Int(1))) else { panic!("{}", key.path) };
        assert!(text.contains(&format!("is an option of {owner}")), "{text}");
    }
}

#[test]
fn compression_takes_what_it_documents_and_nothing_else() {
    let of = |name: &str, value: Value| server(&text("ws://a:1"), &map(&[("compression", map(&[(name, value)]))]));
    for (name, low, high) in [("level", 1, 9), ("windowBits", 9, 15), ("threshold", 0, BIGGEST)] {
        for value in [low, high] {
            let config = of(name, Int(value)).unwrap().compression.unwrap();
            let got = match name {
                "level" => i64::from(config.level),
                "windowBits" => i64::from(config.window_bits),
                _ => i64::try_from(config.threshold).unwrap(),
            };
            assert_eq!(got, value);
        }
        for value in [low - 1, high + 1] {
            assert_eq!(
                of(name, Int(value)).unwrap_err(),
                OptionError::Value(format!(
                    "WsServer: option 'compression.{name}' must be between {low} and {high}, {value} given"
                ))
            );
        }
        assert_eq!(
            of(name, text("6")).unwrap_err(),
            OptionError::Type(format!("WsServer: option 'compression.{name}' must be of type int, string given"))
        );
    }
    assert!(of("contextTakeover", Bool(true)).unwrap().compression.unwrap().context_takeover);
    assert_eq!(
        of("contextTakeover", Int(1)).unwrap_err(),
        OptionError::Type("WsServer: option 'compression.contextTakeover' must be of type bool, int given".into())
    );
    assert_eq!(
        of("window_bits", Int(10)).unwrap_err(),
        OptionError::Value(
            "WsServer: unknown option 'compression.window_bits' (10 given); did you mean 'compression.windowBits'? \
             Allowed options of 'compression': level, contextTakeover, windowBits, threshold"
                .into()
        )
    );
    assert_eq!(server(&text("ws://a:1"), &map(&[("compression", Bool(false))])).unwrap().compression, None);
    assert_eq!(client(&text("ws://a:1"), &map(&[("compression", Bool(false))])).unwrap().compression, None);
}

#[test]
fn workers_take_what_they_document_and_nothing_else() {
    let of = |name: &str, value: Value| {
        let entries = if name == "count" { vec![(name, value)] } else { vec![("count", Int(2)), (name, value)] };
        server(&text("ws://a:1"), &map(&[("workers", map(&entries))]))
    };
    for (name, low, high) in [("count", 0, 256), ("maxRequests", 1, BIGGEST), ("maxMemory", 16 << 20, BIGGEST)] {
        for value in [low, high] {
            let workers = of(name, Int(value)).unwrap().workers;
            let got = match name {
                "count" => workers.count as u64,
                "maxRequests" => workers.max_requests.unwrap(),
                _ => workers.max_memory.unwrap() as u64,
            };
            assert_eq!(got, value.cast_unsigned());
        }
        for value in [low - 1, high + 1] {
            assert_eq!(
                of(name, Int(value)).unwrap_err(),
                OptionError::Value(format!(
                    "WsServer: option 'workers.{name}' must be between {low} and {high}, {value} given"
                ))
            );
        }
    }
    for (name, expected) in [
        ("count", "int"),
        ("maxRequests", "int or null"),
        ("maxMemory", "int (bytes) or null"),
        ("grace", "int|float (seconds)"),
        ("by", "string ('connection', 'user', 'header:NAME' or 'query:NAME')"),
    ] {
        assert_eq!(
            of(name, Bool(true)).unwrap_err(),
            OptionError::Type(format!("WsServer: option 'workers.{name}' must be of type {expected}, bool given"))
        );
    }
    for name in ["maxRequests", "maxMemory"] {
        assert_eq!(of(name, Null).unwrap().workers, Workers { count: 2, ..Workers::default() });
    }
    assert_eq!(of("grace", Float(0.25)).unwrap().workers.grace, Duration::from_millis(250));
    assert_eq!(
        of("grace", Int(0)).unwrap_err().to_string(),
        "WsServer: option 'workers.grace' must be between 0.001 and 31536000 seconds, 0 given"
    );
    for (given, key) in [
        ("connection", WorkerKey::Connection),
        ("user", WorkerKey::User),
        ("header:X-Room", WorkerKey::Header("x-room".into())),
        ("query:raum ü", WorkerKey::Query("raum ü".into())),
        ("query:a:b", WorkerKey::Query("a:b".into())),
    ] {
        assert_eq!(of("by", text(given)).unwrap().workers.by, key);
    }
    for given in ["", "users", "User", "header", "header:", "header:a b", "query:", "query:a\n", "cookie:id", "user:x"]
    {
        assert_eq!(
            of("by", text(given)).unwrap_err(),
            OptionError::Value(format!(
                "WsServer: option 'workers.by' must be 'connection', 'user', 'header:NAME' or 'query:NAME', {} given",
                fields::shown_text(given.as_bytes())
            ))
        );
    }
    assert!(of("by", Value::Text(vec![0xFF])).is_err());
    assert_eq!(
        of("maxRequest", Int(10)).unwrap_err().to_string(),
        "WsServer: unknown option 'workers.maxRequest' (10 given); did you mean 'workers.maxRequests'? \
         Allowed options of 'workers': count, by, maxRequests, maxMemory, grace"
    );
    assert_eq!(
        server_error(&map(&[("workers", map(&[("by", text("user"))]))])),
        "WsServer: option 'workers' needs 'count', how many there are to be (0 to 256)"
    );
    assert_eq!(
        server_error(&map(&[("workers", text("2"))])),
        "WsServer: option 'workers' must be of type int or array (count, by, maxRequests, maxMemory, grace), string given"
    );
}

#[test]
fn a_watchdog_replaces_workers_where_there_are_any() {
    let action = |workers: i64, action: Option<&str>| {
        let mut entries = vec![("workers", Int(workers))];
        if let Some(action) = action {
            entries.push(("watchdog", map(&[("action", text(action))])));
        }
        server(&text("ws://a:1"), &map(&entries)).map(|config| config.watchdog.action)
    };
    assert_eq!(action(0, None), Ok(WatchdogAction::Log));
    assert_eq!(action(2, None), Ok(WatchdogAction::Replace));
    assert_eq!(action(2, Some("replace")), Ok(WatchdogAction::Replace));
    assert_eq!(action(2, Some("log")), Ok(WatchdogAction::Log));
    assert_eq!(
        action(0, Some("replace")).unwrap_err().to_string(),
        "WsServer: option 'watchdog.action' can be 'replace' only with 'workers': there is no worker to replace; \
         allowed without are 'log', 'unready', 'drain'"
    );
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let server = server(&text("ws://127.0.0.1:8080"), &List(vec![])).unwrap();
    let client = client(&text("ws://a"), &List(vec![])).unwrap();
    let mib = 1024 * 1024;
    for beats in [&server.heartbeat, &client.heartbeat] {
        assert_eq!(beats.rules.interval, Duration::from_secs(25));
        assert_eq!(beats.rules.timeout, Duration::from_secs(10));
        assert_eq!(beats.rules.missed_limit, 1);
        assert_eq!(beats.rules.mode, Mode::Auto);
        assert_eq!(beats.rules.adaptive, None);
        assert_eq!((&beats.message, &beats.reply), (&None, &None));
        assert!(beats.accept.is_empty());
    }
    for limits in [&server.limits, &client.limits] {
        assert_eq!((limits.max_message, limits.max_frame, limits.max_fragments), (mib, mib, 131_072));
        assert_eq!(limits.inbound, mib);
        assert_eq!(limits.handshake_timeout, Duration::from_secs(10));
        assert_eq!(limits.max_header_bytes, 16 * 1024);
    }
    assert_eq!((server.limits.memory, client.limits.memory), (1024 * mib, 256 * mib));

    assert_eq!((server.idle_timeout, server.idle_evict), (None, false));
    let limits = &server.server_limits;
    assert_eq!((limits.max_connections, limits.per_ip), (0, 0));
    assert_eq!((limits.max_channels, limits.max_subscriptions), (100_000, 128));
    assert_eq!(limits.auth_timeout, Duration::from_secs(60));
    assert_eq!((limits.message_rate, limits.byte_rate, limits.rate_action), (None, None, RateAction::Pause));
    assert_eq!((server.send.limit, server.send.policy), (mib, SlowConsumer::Close));
    assert_eq!(server.origins, Origins::SameHost);
    assert!(server.protocols.is_empty());
    assert_eq!(client.protocols, ["lifeline.v1"]);
    assert_eq!((&server.path, &server.health_path, &server.admin), (&None, &None, &None));
    assert!(server.trusted_proxies.is_empty() && !server.proxy_protocol);
    assert!(server.tls.is_none());
    assert_eq!((server.watchdog.lag, server.watchdog.action), (Duration::from_secs(30), WatchdogAction::Log));
    assert_eq!((server.log_level, client.log_level), (LogLevel::Warning, LogLevel::Warning));
    assert_eq!((server.io_threads, server.reuse_port, server.backlog), (None, false, 4096));
    assert_eq!((server.workers.count, &server.workers.by), (0, &WorkerKey::Connection));
    assert_eq!((server.workers.max_requests, server.workers.max_memory), (None, None));
    assert_eq!(server.workers.grace, Duration::from_secs(30));
    assert!(!server.ask_handshake && !server.announce_members && !client.ask_headers);

    let backoff = &client.reconnect.backoff;
    assert_eq!((backoff.base, backoff.max), (Duration::from_millis(500), Duration::from_secs(30)));
    assert_eq!((backoff.factor.to_bits(), backoff.floor), (2f64.to_bits(), Duration::from_millis(50)));
    assert_eq!((backoff.jitter, backoff.first, backoff.max_attempts), (Jitter::Full, None, None));
    assert_eq!(backoff.stable_after, Duration::from_secs(5));
    assert!(!client.reconnect.lazy);
    assert_eq!(client.reconnect.terminal_codes, [1002, 1003, 1007, 1009, 1010]);
    assert_eq!(client.reconnect.terminal_statuses, [400, 403, 404, 410, 426]);
    assert_eq!(client.connect_timeout, Duration::from_secs(10));
    assert!(client.headers.is_empty());
    assert_eq!(client.proxy, Proxy::Environment);
    assert_eq!((client.outbox.limit, client.outbox.bytes), (10_000, 16 * mib));
    assert_eq!((client.outbox.overflow, client.outbox.block_timeout), (OverflowPolicy::Error, None));
    assert_eq!(client.outbox.ttl, Some(Duration::from_secs(300)));
    assert!(client.tls.verify && client.tls.ca.is_none() && client.tls.cert.is_none() && client.tls.key.is_none());
}

fn server_error(options: &Value) -> String {
    server(&text("ws://127.0.0.1:0"), options).unwrap_err().to_string()
}

#[test]
fn unknown_keys_name_themselves_and_their_neighbour() {
    let hint = |path: &str| server_error(&nested(path, Int(1)));
    assert_eq!(
        hint("heartbeat.intervall"),
        "WsServer: unknown option 'heartbeat.intervall' (1 given); did you mean 'heartbeat.interval'? Allowed \
         options of 'heartbeat': interval, timeout, missedLimit, mode, adaptive, message, reply, accept, preset"
    );
    assert!(hint("limits.max_message").contains("did you mean 'limits.maxMessage'?"));
    assert!(hint("maxMessage").contains("did you mean 'limits.maxMessage'?"));
    assert!(hint("protocol").contains("did you mean 'protocols'?"));
    assert!(hint("hearbeat.interval").contains("unknown option 'hearbeat' (array given); did you mean 'heartbeat'?"));
    let far = hint("zzz");
    assert!(!far.contains("did you mean"), "{far}");
    assert!(far.contains("(1 given). Allowed options: heartbeat, idle, limits, send, compression, ack"), "{far}");
    // Options of other layers are as unknown as any.
    assert!(hint("worker").starts_with("WsServer: unknown option 'worker' (1 given); did you mean 'workers'?"));
}

#[test]
fn an_outbox_on_disk() {
    let read = |options: &Value| client(&text("ws://a"), options);
    let config = read(&nested("outbox.path", text("/nowhere/yet"))).unwrap();
    assert_eq!(config.storage, Some(Storage { path: "/nowhere/yet".into(), durability: Durability::Always }));
    // What is kept over the end of the process is not given up after five minutes.
    assert_eq!(config.outbox.ttl, None);
    let outbox = |key: &str, value| (key.as_bytes().to_vec(), value);
    let options = vec![outbox("path", text("relative")), outbox("durability", text("spill")), outbox("ttl", Int(7))];
    let config = read(&Map(vec![(b"outbox".to_vec(), Map(options))])).unwrap();
    let storage = config.storage.unwrap();
    assert_eq!((storage.path, storage.durability), (std::path::absolute("relative").unwrap(), Durability::Spill));
    assert_eq!(config.outbox.ttl, Some(Duration::from_secs(7)));
    let error = read(&nested("outbox.durability", text("interval"))).unwrap_err().to_string();
    assert!(error.contains("option 'outbox.durability' needs 'outbox.path'"), "{error}");
    for path in ["", "a\0b", "/dev/null"] {
        let error = read(&nested("outbox.path", text(&path.replace("\\0", "\0")))).unwrap_err().to_string();
        assert!(error.contains("option 'outbox.path' must name a directory"), "{error}");
    }
}

#[test]
fn shapes_of_the_option_array() {
    assert_eq!(
        server_error(&map(&[("heartbeat.interval", Int(5))])),
        "WsServer: option 'heartbeat.interval' must be nested: ['heartbeat' => ['interval' => …]]"
    );
    assert!(server_error(&map(&[("heartbeat", Int(5))])).contains("'heartbeat' must be of type array"));
    assert!(server_error(&map(&[("heartbeat", List(vec![Int(5)]))])).contains("a list was given"));
    assert!(server_error(&List(vec![Int(5)])).contains("a list was given"));
    assert!(server_error(&nested("heartbeat.interval.x", Int(5))).contains("unknown option 'heartbeat.interval.x'"));
    assert!(matches!(server(&text("ws://a:1"), &Int(1)), Err(OptionError::Type(_))));
    assert!(server(&text("ws://a:1"), &map(&[("heartbeat", List(vec![])), ("tls", Null)])).is_ok());
    assert!(server(&text("ws://a:1"), &map(&[("logger", other())])).is_ok());
}

#[test]
fn presets_give_way_to_explicit_values() {
    let beats = |preset: &str| server(&text("ws://a:1"), &nested("heartbeat.preset", text(preset))).unwrap().heartbeat;
    for (preset, interval) in [("nginx", 30), ("aws-elb", 50), ("haproxy", 25), ("cloudflare", 50), ("grpc", 20)] {
        assert_eq!(beats(preset).rules.interval, Duration::from_secs(interval), "{preset}");
        assert_eq!(beats(preset).rules.adaptive, None);
    }
    let mobile = beats("mobile").rules;
    assert_eq!(mobile.interval, mobile.adaptive.unwrap().min);
    let both = map(&[("heartbeat", map(&[("interval", Int(3)), ("preset", text("nginx"))]))]);
    assert_eq!(server(&text("ws://a:1"), &both).unwrap().heartbeat.rules.interval, Duration::from_secs(3));
    assert!(server_error(&nested("heartbeat.preset", text("ngnix"))).contains("did you mean 'nginx'?"));
}

#[test]
fn a_reply_needs_a_message() {
    let beats = map(&[("heartbeat", map(&[("message", text("ping")), ("reply", text("pong"))]))]);
    let beats = server(&text("ws://a:1"), &beats).unwrap().heartbeat;
    assert_eq!((beats.message.as_deref(), beats.reply.as_deref()), (Some("ping"), Some("pong")));
    let error = server_error(&nested("heartbeat.reply", text("pong")));
    assert_eq!(error, "WsServer: option 'heartbeat.reply' needs 'heartbeat.message', the beat that it answers");
}

#[test]
fn sizes_fit_into_each_other() {
    let limits = |entries: &[(&str, Value)]| server(&text("ws://a:1"), &map(&[("limits", map(entries))]));
    let config = limits(&[("maxMessage", Int(5_000_000))]).unwrap();
    assert_eq!(config.limits.max_frame, 5_000_000, "a frame may be as long as a message");
    assert_eq!(limits(&[("maxMessage", Int(1000))]).unwrap().limits.max_frame, 1000);
    let error = limits(&[("maxMessage", Int(1000)), ("maxFrame", Int(1001))]).unwrap_err().to_string();
    assert_eq!(error, "WsServer: option 'limits.maxFrame' must not exceed 'limits.maxMessage' (1000), 1001 given");
    let error = limits(&[("memory", Int(100_000))]).unwrap_err().to_string();
    assert_eq!(
        error,
        "WsServer: option 'limits.memory' must be at least 'limits.maxMessage' (1048576, the default), 100000 given"
    );
    let error = server_error(&nested("send.limit", Int(1 << 40)));
    assert!(error.contains("'send.limit' must not exceed 'limits.memory' (1073741824, the default)"), "{error}");
}

#[test]
fn backoff_bounds_fit_into_each_other() {
    let reconnect = |entries: &[(&str, Value)]| client(&text("ws://a"), &map(&[("reconnect", map(entries))]));
    assert!(reconnect(&[("base", Int(31))]).unwrap_err().to_string().contains("'reconnect.base' breaks base ≤ max"));
    assert!(reconnect(&[("max", Float(0.1))]).unwrap_err().to_string().contains("'reconnect.max' breaks base ≤ max"));
    assert!(reconnect(&[("floor", Int(31))]).unwrap_err().to_string().contains("'reconnect.floor' breaks"));
    assert!(reconnect(&[("base", Int(31)), ("max", Int(31))]).is_ok());
}

#[test]
fn tls_files() {
    let file = file();
    let secure = |entries: &[(&str, Value)]| server(&text("wss://a:1"), &map(&[("tls", map(entries))]));
    let tls = secure(&[("cert", text(&file))]).unwrap().tls.unwrap();
    assert_eq!((&tls.key, &tls.client_ca), (&PathBuf::from(&file), &None), "the key may be in the certificate's file");
    let site = map(&[("*.Example.org", map(&[("cert", text(&file)), ("key", text(&file))]))]);
    let tls = secure(&[("cert", text(&file)), ("sni", site), ("clientCa", text(&file))]).unwrap().tls.unwrap();
    assert_eq!(tls.sni, [("*.example.org".to_owned(), PathBuf::from(&file), PathBuf::from(&file))]);
    assert_eq!(tls.client_ca, Some(PathBuf::from(&file)));

    let error = secure(&[("cert", text("/no/such.pem"))]).unwrap_err().to_string();
    assert!(
        error.starts_with("WsServer: option 'tls.cert' must name a readable file: cannot read '/no/such.pem': "),
        "{error}"
    );
    let error = secure(&[("key", text(&file))]).unwrap_err().to_string();
    assert!(error.contains("'tls.key' needs 'tls.cert'"), "{error}");
    let error = server(&text("wss://a:1"), &List(vec![])).unwrap_err().to_string();
    assert!(error.contains("needs a certificate") && error.contains("'tls.cert'"), "{error}");
    let error = server(&text("ws://a:1"), &nested("tls.cert", text(&file))).unwrap_err().to_string();
    assert!(error.contains("nothing would be encrypted"), "{error}");

    let error = client(&text("wss://a"), &nested("tls.key", text(&file))).unwrap_err().to_string();
    assert!(error.contains("'tls.key' needs 'tls.cert'"), "{error}");
}

#[test]
fn listen_addresses() {
    let tcp = |host: &str, port, tls| ListenAddress::Tcp { host: host.to_owned(), port, tls };
    for (url, address) in [
        ("ws://127.0.0.1:8080", tcp("127.0.0.1", 8080, false)),
        ("WSS://LocalHost:0/", tcp("localhost", 0, true)),
        ("ws://[::]:65535", tcp("::", 65_535, false)),
        ("unix:///run/a.sock", ListenAddress::Unix { path: "/run/a.sock".into() }),
        ("systemd:", ListenAddress::Passed { name: None, tls: false }),
        ("Systemd:Web-1", ListenAddress::Passed { name: Some("Web-1".into()), tls: false }),
        ("systemd+wss:web", ListenAddress::Passed { name: Some("web".into()), tls: true }),
    ] {
        assert_eq!(listen_address(url.as_bytes()), Ok(address), "{url}");
    }
    let long = format!("unix:///{}", "x".repeat(107));
    for (url, problem) in [
        ("", "is empty"),
        ("ws://a", "has no port"),
        ("ws://a:", "has no port after ':'"),
        ("ws://:80", "has no host"),
        ("ws://a:65536", "not in 0 to 65535"),
        ("ws://a:-1", "not a number"),
        ("ws://a:8o", "not a number"),
        ("ws://::1:80", "write [::1]"),
        ("ws://[::1:80", "'[' without ']'"),
        ("ws://[::1]80", "where ':port' was expected"),
        ("ws://[1.2.3.4]:80", "no IPv6 address in brackets"),
        ("ws://[fe80::1%25eth0]:80", "zone"),
        ("ws://a:80/chat", "option 'path'"),
        ("ws://me@a:80", "user name"),
        ("ws://a b:80", "0x20"),
        ("ws://münchen.de:80", "punycode"),
        ("ws://1.2.3:80", "not a name or an address"),
        ("ws://-a:80", "not a name or an address"),
        ("127.0.0.1:8080", "has no scheme"),
        ("http://a:80", "write 'ws://'"),
        ("websocket://a:80", "write 'ws://'"),
        ("https://a:80", "write 'wss://'"),
        ("ftp://a:80", "allowed are ws, wss, unix and systemd"),
        ("unix://run/a.sock", "absolute path"),
        (long.as_str(), "takes 107"),
        ("systemd://web", "must be like 'systemd:name'"),
        ("systemd:a:b", "FileDescriptorName="),
    ] {
        let error = listen_address(url.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("WsServer: listen address '"), "{error}");
        assert!(error.contains(problem), "{url}: {error}");
        if !url.is_empty() && url.is_ascii() && url.len() < 80 && !url.contains('@') {
            assert!(error.contains(url), "{error}");
        }
    }
    assert!(server(&List(vec![]), &List(vec![])).unwrap_err().to_string().contains("at least one URL"));
    assert!(matches!(server(&Int(8080), &List(vec![])), Err(OptionError::Type(_))));
    assert!(matches!(server(&List(vec![Int(8080)]), &List(vec![])), Err(OptionError::Type(_))));
    let twice = server(&texts(&["ws://a:1", "ws://A:1"]), &List(vec![])).unwrap_err().to_string();
    assert!(twice.contains("is there twice"), "{twice}");
    assert_eq!(server(&texts(&["ws://a:0", "ws://a:0", "unix:///x"]), &List(vec![])).unwrap().listen.len(), 3);
}

#[test]
fn client_urls() {
    let parsed = |url: &str| client_url(url.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let tcp = |host: &str, port, tls, resource: &str, credentials: Option<&str>| ClientUrl {
        target: ListenAddress::Tcp { host: host.to_owned(), port, tls },
        resource: resource.to_owned(),
        credentials: credentials.map(str::to_owned),
    };
    assert_eq!(parsed("ws://Example.org"), tcp("example.org", 80, false, "/", None));
    assert_eq!(parsed("wss://example.org/a/b?c=d"), tcp("example.org", 443, true, "/a/b?c=d", None));
    assert_eq!(parsed("ws://[2001:db8::1]:81?x"), tcp("2001:db8::1", 81, false, "/?x", None));
    assert_eq!(parsed("ws://me:s%3Acret@a/"), tcp("a", 80, false, "/", Some("me:s:cret")));
    assert_eq!(parsed("ws://me@a/"), tcp("a", 80, false, "/", Some("me:")));
    assert_eq!(
        parsed("unix:///run/a.sock:/chat?x=1"),
        ClientUrl {
            target: ListenAddress::Unix { path: "/run/a.sock".into() },
            resource: "/chat?x=1".to_owned(),
            credentials: None
        }
    );
    assert_eq!(parsed("unix:///run/a.sock").resource, "/");
    for (url, problem) in [
        ("", "is empty"),
        ("example.org", "has no scheme"),
        ("ws://", "has no host"),
        ("ws:///x", "has no host"),
        ("ws://a:0", "from 1 to 65535"),
        ("ws://a:99999", "not in 0 to 65535"),
        ("ws://a/#b", "fragment"),
        ("ws://a/b c", "0x20"),
        ("ws://a/b\r\nX: y", "0x0D"),
        ("ws://exämple.org", "punycode"),
        ("ws://u%0:p@a", "percent-encoded"),
        ("ws://u%0Ax@a", "percent-encoded"),
        ("https://a", "write 'wss://'"),
        ("unix://", "absolute path"),
    ] {
        let error = client_url(url.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("WsClient: URL '"), "{error}");
        assert!(error.contains(problem), "{url}: {error}");
    }
    let error = client_url(b"ws://me:hunter2@:80/").unwrap_err().to_string();
    assert!(!error.contains("hunter2") && error.contains("@:80"), "{error}");
    assert!(client(&texts(&["ws://a", "wss://b"]), &List(vec![])).unwrap().urls.len() == 2);
    assert!(client(&List(vec![]), &List(vec![])).unwrap_err().to_string().contains("$url"));
}

#[test]
fn proxies() {
    let proxy = |url: &str| client(&text("ws://a"), &nested("connect.proxy", text(url))).map(|config| config.proxy);
    assert_eq!(
        proxy("http://u:p%40@proxy.example"),
        Ok(Proxy::Http { host: "proxy.example".into(), port: 80, credentials: Some("u:p@".into()) })
    );
    let error = proxy("ftp://me:hunter2@a:1").unwrap_err().to_string();
    assert!(!error.contains("hunter2") && error.contains("'ftp'"), "{error}");
}

/// A URL may come to be where another value belongs.
#[test]
fn no_refusal_repeats_a_password() {
    for given in ["http://me:hunter2@host:1/a", "me:hunter2@host:1", "unix://me:hunter2@/run/a"] {
        for key in KEYS {
            let forms = [
                text(given),
                texts(&[given]),
                map(&[(given, Int(1))]),
                map(&[("x", text(given))]),
                map(&[("min", text(given)), (given, text(given))]),
            ];
            for value in forms {
                for (role, options) in [Role::Server, Role::Client].map(|role| (role, nested(key.path, value.clone())))
                {
                    let Err(error) = read(role, &options) else { continue };
                    assert!(!error.to_string().contains("hunter2"), "{error}");
                }
            }
        }
        for options in [map(&[(given, Int(1))]), map(&[("limits", map(&[(given, Int(1))]))])] {
            let error = server_error(&options);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
    assert!(server_error(&nested("send.policy", text("a@b"))).contains("'a@b'"), "an address has no password");
}

/// An option as `docs/options.md` has it.
struct Documented {
    path: String,
    roles: String,
    /// For each of the roles.
    defaults: Vec<(Role, Value)>,
}

fn documented() -> Vec<Documented> {
    let mut options = Vec::new();
    for line in include_str!("../../../../docs/options.md").lines() {
        let Some(cells) = line.strip_prefix("| `") else { continue };
        let cells: Vec<&str> = cells.split(" | ").map(str::trim).collect();
        let group = cells[0].split_once('.').map_or("", |(group, _)| group);
        let names: Vec<&str> = cells[0].split(" / ").map(|name| name.trim_matches('`')).collect();
        let defaults: Vec<Value> = cells[2].split(" / ").map(documented_value).collect();
        for (index, name) in names.iter().enumerate() {
            let path = if name.starts_with('.') { format!("{group}{name}") } else { (*name).to_owned() };
            let mut option = Documented { path, roles: cells[1].to_owned(), defaults: Vec::new() };
            for (role, letter) in [(Role::Server, 'S'), (Role::Client, 'C')] {
                if option.roles.contains(letter) {
                    // One for each name or one for all; a single name may have one for each role.
                    let by_role = names.len() == 1 && role == Role::Client;
                    let default = defaults.get(if by_role { 1 } else { index }).unwrap_or(&defaults[0]);
                    option.defaults.push((role, default.clone()));
                }
            }
            options.push(option);
        }
    }
    options
}

fn documented_value(cell: &str) -> Value {
    let unit = |text: &str| ["KiB", "MiB", "GiB"].iter().position(|unit| *unit == text);
    let number = |text: &str| text.parse().map(Int).or_else(|_| text.parse().map(Float)).ok();
    match cell.split(' ').collect::<Vec<_>>()[..] {
        // What the table cannot say: computed when the server starts.
        ["null"] | ["min(cores,", "4)"] => Null,
        ["true"] => Bool(true),
        ["false"] => Bool(false),
        ["`[]`"] => List(vec![]),
        ["`['lifeline.v1']`"] => List(vec![text("lifeline.v1")]),
        [word] if word.starts_with('`') => text(word.trim_matches('`')),
        [count, size] if unit(size).is_some() => Int(count.parse::<i64>().unwrap() << (10 * (1 + unit(size).unwrap()))),
        [one] => number(one).unwrap_or_else(|| panic!("{cell}")),
        ref many => List(many.iter().map(|one| number(one).unwrap_or_else(|| panic!("{cell}"))).collect()),
    }
}

#[test]
fn the_documentation_lists_every_option_and_no_other() {
    let mut listed: Vec<_> = documented().into_iter().map(|option| (option.path, option.roles)).collect();
    let mut known: Vec<_> = KEYS
        .iter()
        .map(|key| {
            let letters = match (key.server, key.client) {
                (true, true) => "SC",
                (true, false) => "S",
                _ => "C",
            };
            (key.path.to_owned(), letters.to_owned())
        })
        .collect();
    listed.sort();
    known.sort();
    assert_eq!(listed, known);
}

#[test]
fn the_documented_defaults_change_nothing() {
    for Documented { path, defaults, .. } in documented() {
        for (role, value) in defaults {
            let given = read(role, &nested(&path, value.clone()));
            assert_eq!(given, read(role, &List(vec![])), "{path}: {value:?} is not the default of {}", role.class());
        }
    }
}

#[test]
fn ranges_take_both_of_their_ends() {
    let int = i64::from(i32::MAX);
    let ranges = [
        ("heartbeat.missedLimit", 1, 1000),
        ("reconnect.maxAttempts", 1, i64::from(u32::MAX)),
        ("outbox.limit", 1, int),
        ("outbox.bytes", 1, BIGGEST),
        ("limits.memory", 65_536, BIGGEST),
        ("limits.maxMessage", 1, BIGGEST),
        ("limits.maxFrame", 1, BIGGEST),
        ("limits.maxFragments", 1, i64::from(u32::MAX)),
        ("limits.inbound", 1, BIGGEST),
        ("limits.maxConnections", 0, int),
        ("limits.perIp", 0, int),
        ("limits.maxChannels", 1, int),
        ("limits.maxSubscriptions", 1, int),
        ("limits.maxHeaderBytes", 256, 1 << 20),
        ("send.limit", 1, BIGGEST),
        ("ioThreads", 1, 64),
        ("backlog", 1, 65_535),
    ];
    let durations = [
        ("heartbeat.interval", TICK),
        ("heartbeat.timeout", TICK),
        ("idle.timeout", TICK),
        ("reconnect.base", TICK),
        ("reconnect.max", TICK),
        ("reconnect.floor", 0.0),
        ("reconnect.first", 0.0),
        ("reconnect.stableAfter", 0.0),
        ("connect.timeout", TICK),
        ("outbox.blockTimeout", 0.0),
        ("outbox.ttl", TICK),
        ("limits.handshakeTimeout", TICK),
        ("limits.authTimeout", TICK),
        ("watchdog.lag", TICK),
    ];
    let ints = ranges.iter().flat_map(|(path, low, high)| [(*path, Int(*low)), (*path, Int(*high))]);
    let floats = durations.iter().flat_map(|(path, low)| [(*path, Float(*low)), (*path, Float(LONGEST))]);
    for (path, value) in ints.chain(floats) {
        let key = KEYS.iter().find(|key| key.path == path).unwrap();
        let role = if key.server { Role::Server } else { Role::Client };
        // Another option may still be in the way; the range must not be.
        if let Err(error) = read(role, &nested(path, value.clone())) {
            assert!(!error.to_string().contains("must be between"), "{value:?}: {error}");
        }
    }
}
