//! The load generator against a server that this project did not write (tokio-tungstenite).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener as Listener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use lifeline_load::broadcast::Broadcast;
use lifeline_load::crew::{Crew, Scene};
use lifeline_load::pool::{Deflate, Plan};
use lifeline_load::process::Tree;
use lifeline_load::run::{Course, Outcome, Stage, staged, steady};
use lifeline_load::talk::Script;
use lifeline_load::train::{Train, server_frame};
use lifeline_load::ws::Url;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// What the server does to the echo of a message.
type Change = fn(Vec<u8>) -> Vec<u8>;

/// Echoes, changed; /publish goes to all on /subscribe.
fn server(change: Change) -> Url {
    let (address, bound) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let (news, _) = broadcast::channel::<Message>(64);
            while let Ok((stream, _)) = listener.accept().await {
                let news = news.clone();
                tokio::spawn(async move {
                    let mut path = String::new();
                    #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
                    let note = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
                        request.uri().path().clone_into(&mut path);
                        Ok(response)
                    };
                    let Ok(mut peer) = accept_hdr_async(stream, note).await else { return };
                    if path == "/subscribe" {
                        let mut subscription = news.subscribe();
                        while let Ok(message) = subscription.recv().await {
                            if peer.send(message).await.is_err() {
                                return;
                            }
                        }
                        return;
                    }
                    while let Some(Ok(message)) = peer.next().await {
                        match message {
                            message if path == "/publish" => {
                                // Nobody subscribes yet: the generator sends it again.
                                let _ = news.send(message);
                            }
                            Message::Binary(data) => {
                                let changed = change(data.to_vec());
                                if peer.send(Message::binary(changed)).await.is_err() {
                                    return;
                                }
                            }
                            _ => {}
                        }
                    }
                });
            }
        });
    });
    format!("ws://{}/", bound.recv().unwrap()).parse().unwrap()
}

fn plan(url: &Url) -> Plan {
    Plan::new(url, 3, Duration::from_secs(20)).unwrap()
}

fn course(conns: usize) -> Course {
    Course {
        conns,
        rate: 0.0,
        open_first: true,
        warm: Duration::from_millis(100),
        length: Duration::from_millis(600),
        server: Some(Tree::of(std::process::id())),
        memory: true,
        threads: 2,
        show: false,
    }
}

fn talk(url: &Url, window: usize, size: usize, course: &Course) -> Outcome {
    let script = Script { train: Arc::new(Train::new(size, false)), window, beat: None, lifeline: false, order: None };
    steady(Crew::threads(2, &plan(url), &Scene::Talk(script)), course).unwrap()
}

#[test]
fn talks_and_counts() {
    let url = server(|data| data);
    for (window, size) in [(1, 32), (20, 300), (2, 100_000)] {
        let outcome = talk(&url, window, size, &course(5));
        assert_eq!((outcome.total.open, outcome.total.failed), (5, 0), "{:?}", outcome.total.errors);
        assert!(outcome.total.messages > 10);
        assert_eq!(outcome.total.delays.len(), outcome.total.messages);
        let report = outcome.to_json();
        assert!(report["delay_ms"]["p50"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["server"]["pss_end"].as_u64().unwrap() > 0, "{report}");
    }
}

#[test]
fn a_changed_byte_is_a_failure() {
    let url = server(|mut data| {
        if let Some(byte) = data.last_mut() {
            *byte ^= 1;
        }
        data
    });
    let outcome = talk(&url, 4, 64, &course(2));
    assert!(outcome.total.failed >= 2);
    assert_eq!(outcome.total.messages, 0);
    assert!(outcome.total.errors[0].contains("came back changed"), "{:?}", outcome.total.errors);
}

#[test]
fn a_fixed_rate_is_kept_and_a_stall_is_not_omitted() {
    static STALLED: AtomicBool = AtomicBool::new(false);
    // The first message holds up the whole server: what was due meanwhile is late, too.
    let url = server(|data| {
        if !STALLED.swap(true, Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(400));
        }
        data
    });
    let outcome = talk(&url, 1, 32, &Course { rate: 200.0, ..course(2) });
    assert_eq!(outcome.total.failed, 0, "{:?}", outcome.total.errors);
    assert!(outcome.total.messages >= 100, "{} messages", outcome.total.messages);
    let delays = &outcome.total.delays;
    let late = delays.count_between(100_000_000, delays.max());
    assert!(late >= 20, "{late} of {} messages were 100 ms late", delays.len());
}

#[test]
fn handshakes_go_round() {
    let url = server(|data| data);
    let outcome =
        steady(Crew::threads(1, &plan(&url), &Scene::Handshake), &Course { open_first: false, ..course(8) }).unwrap();
    assert!(outcome.total.messages > 10, "{:?}", outcome.total.errors);
    assert_eq!(outcome.total.failed, 0, "{:?}", outcome.total.errors);
}

#[test]
fn stages_go_up_and_down() {
    let url = server(|data| data);
    let script = Script { train: Arc::new(Train::new(32, false)), window: 1, beat: None, lifeline: false, order: None };
    let stage = |conns| Stage { length: Duration::from_millis(1100), conns, rate: 0.0 };
    let stages = [stage(10), stage(10), stage(2)];
    let outcome = staged(Crew::threads(2, &plan(&url), &Scene::Talk(script)), &stages, &course(10)).unwrap();
    assert_eq!(outcome.total.failed, 0, "{:?}", outcome.total.errors);
    let open: Vec<_> = outcome.points.iter().map(|point| point.open).collect();
    assert!(open.contains(&10), "{open:?}");
    assert!(outcome.total.open <= 3, "{open:?}");
    assert!(outcome.total.messages > 10);
}

#[test]
fn everybody_gets_what_is_published() {
    let url = server(|data| data);
    let broadcast = Broadcast {
        compress: false,
        lifeline: false,
        plan: plan(&url),
        conns: 20,
        size: 64,
        window: 4,
        subscribe: "/subscribe".to_owned(),
        publish: "/publish".to_owned(),
        warm: Duration::from_millis(100),
        length: Duration::from_millis(400),
        server: None,
    };
    let report = broadcast.run().unwrap();
    assert_eq!(report["failed"], 0);
    assert!(report["messages"].as_u64().unwrap() > 20, "{report}");
}

/// Agrees on `extensions` and sends the payload of each frame back as it is on the wire, changed by `change`: what one
/// side's compressor has made is right for the other's too.
fn mirror(extensions: &'static str, change: Change) -> Url {
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte)?;
                    head.push(byte[0]);
                }
                // Of RFC 6455 section 1.3, as the generator's key.
                let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
                let answer = format!(
                    "HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
                );
                stream.write_all(answer.as_bytes())?;
                loop {
                    let mut start = [0; 2];
                    stream.read_exact(&mut start)?;
                    let length = match start[1] & 0x7F {
                        126 => {
                            let mut long = [0; 2];
                            stream.read_exact(&mut long)?;
                            usize::from(u16::from_be_bytes(long))
                        }
                        short => usize::from(short),
                    };
                    let mut rest = vec![0; 4 + length];
                    stream.read_exact(&mut rest)?;
                    let (mask, payload) = rest.split_at(4);
                    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
                    let payload = if start[0] & 0x0F < 8 { change(payload) } else { payload };
                    stream.write_all(&server_frame(start[0] & 0x7F, &payload))?;
                }
            });
        }
    });
    url
}

#[test]
fn compressed_messages_are_inflated_and_compared() {
    let alone = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let run = |extensions, change: Change, deflate| {
        let url = mirror(extensions, change);
        let train = Arc::new(Train::compressed(600));
        let script = Script { train, window: 3, beat: None, lifeline: false, order: None };
        let plan = plan(&url).compressing(deflate);
        steady(Crew::threads(1, &plan, &Scene::Talk(script)), &course(2)).unwrap()
    };
    let mut bytes = Vec::new();
    for (extensions, deflate) in [(alone, Deflate::Alone), ("permessage-deflate", Deflate::Kept)] {
        let good = run(extensions, |wire| wire, deflate);
        assert_eq!(good.total.failed, 0, "{:?}", good.total.errors);
        assert!(good.total.messages > 100, "{}", good.total.messages);
        bytes.push(good.total.bytes / good.total.messages);
        // A message of one byte, in a stored block.
        let bad = run(extensions, |_| [&[0, 1, 0, 0xFE, 0xFF, b'x'][..], &[0]].concat(), deflate);
        assert_eq!(bad.total.messages, 0);
        assert!(bad.total.errors[0].contains("came back changed"), "{:?}", bad.total.errors);
    }
    assert!(bytes[1] < bytes[0] * 9 / 10, "context takeover saves bytes: {bytes:?}");
}
