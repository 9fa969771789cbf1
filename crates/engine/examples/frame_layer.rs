//! Two echo servers for one measurement: the engine's own frame layer against tokio-tungstenite.
//!
//! `frame_layer own|tungstenite` prints an address and serves until its standard input ends. Measure it
//! with `lifeline-load echo` (CPU) and `lifeline-load hold` (memory); see docs/decisions/001.
#![allow(clippy::print_stdout)]

use std::io::Read;
use std::sync::Arc;

use futures_util::{FutureExt, SinkExt, StreamExt};
use lifeline_engine::bridge::{Bridge, Command, Event, Reply};
use lifeline_engine::config::{ListenAddress, ServerConfig};
use lifeline_engine::local::{Local, RuntimeConfig};
use rustix::event::{PollFd, PollFlags, poll};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("own") => drop(std::thread::spawn(own)),
        Some("tungstenite") => drop(std::thread::spawn(tungstenite)),
        _ => return println!("frame_layer own|tungstenite"),
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// The engine with an application that echoes, on its own thread as PHP would be.
fn own() {
    let runtime = RuntimeConfig { io_threads: 1, on_thread_start: Arc::new(|| {}) };
    let local = Local::start(&runtime).expect("threads");
    let config = ServerConfig {
        listen: vec![ListenAddress::Tcp { host: "127.0.0.1".into(), port: 0, tls: false }],
        ..ServerConfig::default()
    };
    let Ok(Reply::Endpoint(server)) = local.submit(Command::StartServer(Box::new(config))) else { return };
    let Ok(Reply::Names(names)) = local.submit(Command::Addresses { server }) else { return };
    println!("{}", names[0]);
    let mut events = Vec::new();
    loop {
        while local.receive(&mut events, 1024) > 0 {
            for event in events.drain(..) {
                if let Event::Message { conn, data, binary, .. } = event {
                    let bytes = data.len();
                    let _ = local.submit(Command::Send { conn, data, binary });
                    let _ = local.submit(Command::Consumed { conn, messages: 1, bytes });
                }
            }
            local.flush();
        }
        if local.prepare_sleep() {
            let descriptor = local.descriptor();
            let _ = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None);
        }
    }
}

/// The best shape we know for it: small bounded buffers, everything that is ready fed before one flush.
fn tungstenite() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        println!("ws://{}", listener.local_addr().expect("address"));
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let config = WebSocketConfig::default()
                    .read_buffer_size(4096)
                    .write_buffer_size(4096)
                    .max_write_buffer_size(1 << 20);
                let Ok(mut socket) = Box::pin(accept_async_with_config(stream, Some(config))).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    let mut next = Some(message);
                    while let Some(message) = next.take() {
                        if (message.is_text() || message.is_binary()) && socket.feed(message).await.is_err() {
                            return;
                        }
                        match socket.next().now_or_never() {
                            Some(Some(Ok(message))) => next = Some(message),
                            Some(_) => return,
                            None => {}
                        }
                    }
                    if socket.flush().await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}
