//! Both ends of `lifeline.v1` in one process, over links that are cut behind the n-th frame.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeline_engine::bridge::{Command, EndpointId, Event, Reply};
use lifeline_engine::config::ClientConfig;
use lifeline_proto::v1::wire::PROTOCOL;

use common::cutter::Cutter;
use common::far::Fate;
use common::{App, PATIENCE, client, local};

/// What both applications have heard.
#[derive(Debug, Default)]
struct Heard {
    session: Option<Arc<str>>,
    /// By the server: numbers in the outbox.
    items: Vec<u64>,
    /// By the client.
    messages: Vec<String>,
    news: Vec<u64>,
    last_news: String,
    gaps: usize,
    opens: usize,
}

impl Heard {
    fn take(&mut self, app: &App, server: EndpointId, event: &Event) {
        match event {
            Event::Open { endpoint, info, .. } if *endpoint == server => {
                let session = info.session.as_ref().expect("a session");
                // One that the client has not heard of goes when it comes without it.
                if self.opens == 0 {
                    self.session = Some(session.id.clone());
                }
            }
            Event::Open { .. } => self.opens += 1,
            Event::Authorise { conn, channel, .. } => {
                let (conn, channel) = (*conn, channel.clone());
                app.submit(Command::AnswerAuthorisation { conn, channel, allowed: true });
            }
            Event::Message { endpoint, info: Some(info), .. } if *endpoint == server => self.items.push(info.sequence),
            Event::Message { data, info: Some(info), .. } => match info.channel {
                Some(_) => {
                    self.news.push(info.sequence);
                    self.last_news = String::from_utf8(data.to_vec()).unwrap();
                }
                None => self.messages.push(String::from_utf8(data.to_vec()).unwrap()),
            },
            Event::Gap { .. } => self.gaps += 1,
            _ => {}
        }
    }
}

async fn dialogue(fates: &[Fate]) -> (usize, usize) {
    let mut app = App::with_threads(1);
    let (server, address) = app.serve(|config| config.authorise = true);
    let cutter = Cutter::start(address).await;
    cutter.fates.lock().extend(fates);
    let mut heard = Heard::default();
    let config = ClientConfig { protocols: vec![PROTOCOL.to_owned()], ..client(vec![local(cutter.port)]) };
    let id = app.create(config);
    app.submit(Command::ClientSubscribe { client: id, channel: "news".into(), on: true });
    for n in 1..=3 {
        app.client_send(id, format!("early {n}"));
    }
    app.submit(Command::Connect { client: id });
    let mut round = 0;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        assert!(std::time::Instant::now() < deadline, "{fates:?}: {heard:?} {:?}", cutter.frames);
        while let Some(event) = app.try_next() {
            heard.take(&app, server, &event);
        }
        let Some(session) = heard.session.clone() else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let publish = |app: &App, text: String| {
            let data = Bytes::from(text);
            app.submit(Command::Publish { server, channel: "news".into(), data, binary: false, except: Vec::new() });
        };
        if heard.opens == 0 || heard.news.is_empty() {
            // What comes before the server's confirmation is missed, and no hole: until one arrives.
            publish(&app, "is anybody there?".to_owned());
        } else if round < 3 {
            round += 1;
            app.client_send(id, format!("item {round}"));
            let data = Bytes::from(format!("message {round}"));
            let command = Command::SessionSend { server, session, data, binary: false };
            assert!(matches!(app.submit(command), Reply::Sequence(1..)), "{fates:?}");
            publish(&app, format!("news {round}"));
        } else if heard.messages.len() >= 3
            && heard.last_news == "news 3"
            && heard.items.len() >= 6
            && app.unacknowledged(id) == 0
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    while let Some(event) = app.try_next() {
        heard.take(&app, server, &event);
    }
    assert_eq!(heard.items, [1, 2, 3, 4, 5, 6], "{fates:?}");
    assert_eq!(heard.messages, ["message 1", "message 2", "message 3"], "{fates:?}");
    let last = heard.news[heard.news.len() - 1];
    assert_eq!(heard.news, (heard.news[0]..=last).collect::<Vec<_>>(), "{fates:?}");
    assert_eq!(heard.gaps, 0, "{fates:?}");
    assert_eq!(app.stat(id, &["session", "gaps"]), 0);
    let frames = cutter.frames.lock()[0];
    app.close(id);
    frames
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_whatever_frame_is_the_last() {
    let (from_client, from_server) = dialogue(&[]).await;
    assert!(from_client >= 8 && from_server >= 9, "{from_client} {from_server}");
    let client = |n| Fate { after_client: Some(n), after_server: None };
    let server = |n| Fate { after_client: None, after_server: Some(n) };
    for n in 0..=from_client {
        dialogue(&[client(n)]).await;
    }
    for n in 0..=from_server {
        dialogue(&[server(n)]).await;
    }
    // And again behind any frame of the connections that come after it.
    for n in [1, 3, 5, 7] {
        for m in 1..=5 {
            dialogue(&[client(n), server(m), client(m)]).await;
            dialogue(&[server(n), client(m), server(m)]).await;
        }
    }
}
