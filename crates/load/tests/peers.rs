//! The load peers against a server that this project did not write (tokio-tungstenite).

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use lifeline_load::churn::{Churn, Ending};
use lifeline_load::echo::Echo;
use lifeline_load::hold::Hold;
use lifeline_load::ws::Url;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Serves each connection with `serve`; returns the URL.
async fn server<F, Served>(serve: F) -> Url
where
    F: Fn(WebSocketStream<TcpStream>) -> Served + Send + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let accepted = tokio_tungstenite::accept_async(stream).await;
            if let Ok(peer) = accepted {
                tokio::spawn(serve(peer));
            }
        }
    });
    url
}

async fn echo_server(mut peer: WebSocketStream<TcpStream>) {
    while let Some(Ok(message)) = peer.next().await {
        if (message.is_text() || message.is_binary()) && peer.send(message).await.is_err() {
            return;
        }
    }
}

fn echo(url: Url) -> Echo {
    Echo {
        url,
        conns: 3,
        window: 4,
        size: 1000,
        messages: 50,
        every: Duration::ZERO,
        text: false,
        sources: 0,
        timeout: Duration::from_secs(60),
    }
}

fn hold(url: Url, crowd: &str) -> Hold {
    Hold {
        url,
        crowd: crowd.parse().unwrap(),
        stay: Duration::from_secs(60),
        every: Duration::from_millis(20),
        size: 100,
        rate: 10_000,
        messages: 0,
        sources: 0,
    }
}

#[tokio::test]
async fn echo_counts_what_came_back() {
    let url = server(echo_server).await;
    for text in [false, true] {
        let report = Echo { text, sources: 2, ..echo(url.clone()) }.run(|| {}, pending()).await.unwrap();
        assert_eq!(report["messages"], 150);
        assert_eq!(report["bytes"], 150_000);
    }
}

#[tokio::test]
async fn echo_ends_when_told() {
    let url = server(echo_server).await;
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let echo = Echo { messages: u64::MAX, every: Duration::from_millis(1), ..echo(url) };
    let report = echo.run(|| drop(end), async { drop(ended.await) }).await.unwrap();
    assert!(report["messages"].as_u64() < Some(1000), "{report}");
}

#[tokio::test]
async fn echo_notices_a_changed_byte() {
    let url = server(|mut peer| async move {
        let mut seen = 0;
        while let Some(Ok(Message::Binary(data))) = peer.next().await {
            let mut data = data.to_vec();
            seen += 1;
            if seen == 7 {
                data[999] ^= 1;
            }
            if peer.send(Message::binary(data)).await.is_err() {
                return;
            }
        }
    })
    .await;
    let error = format!("{:#}", echo(url).run(|| {}, pending()).await.unwrap_err());
    assert!(error.contains("message 6 came back changed"), "{error}");
}

#[tokio::test]
async fn echo_notices_a_missing_answer() {
    let url = server(|mut peer| async move { while let Some(Ok(_)) = peer.next().await {} }).await;
    let echo = Echo { timeout: Duration::from_millis(200), ..echo(url) };
    let error = format!("{:#}", echo.run(|| {}, pending()).await.unwrap_err());
    assert!(error.contains("not done after 200ms"), "{error}");
}

#[tokio::test]
async fn churn_counts_connects_and_refusals() {
    let url = server(echo_server).await;
    for ending in [Ending::Close, Ending::Fin, Ending::Reset] {
        let churn = Churn { url: url.clone(), connects: 40, concurrency: 8, ending, sources: 3 };
        let report = churn.run().await.unwrap();
        assert_eq!(report["connects"], 40, "{report}");
        assert_eq!(report["failed"], serde_json::json!({}));
    }
    let nobody = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap().local_addr().unwrap();
    let url = format!("ws://{nobody}/").parse().unwrap();
    let churn = Churn { url, connects: 5, concurrency: 2, ending: Ending::Close, sources: 0 };
    let report = churn.run().await.unwrap();
    assert_eq!(report["connects"], 0);
    assert_eq!(report["failed"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(), 5, "{report}");
}

#[tokio::test]
async fn held_peers_behave_as_their_kinds_say() {
    let (heard, mut inbox) = tokio::sync::mpsc::unbounded_channel();
    let url = server(move |mut peer| {
        let heard = heard.clone();
        async move {
            peer.send(Message::Ping("beat".into())).await.unwrap();
            while let Some(Ok(message)) = peer.next().await {
                let what = match message {
                    Message::Ping(_) => "ping",
                    Message::Pong(data) if data == "beat" => "pong",
                    Message::Binary(data) if data.len() == 100 => "message",
                    _ => "else",
                };
                heard.send(what).unwrap();
            }
        }
    })
    .await;
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let hold = hold(url, "ping=1,answer=1,flood=1,silent=1,deaf=1,half=1");
    let staying = tokio::spawn(hold.run(|| {}, async { drop(ended.await) }));
    let mut counts = std::collections::BTreeMap::new();
    // Enough of each; tungstenite answers pings while it reads.
    while counts.get("ping") < Some(&3) || counts.get("message") < Some(&3) || counts.get("pong") < Some(&4) {
        let what = tokio::time::timeout(Duration::from_secs(30), inbox.recv()).await.unwrap().unwrap();
        *counts.entry(what).or_insert(0) += 1;
    }
    end.send(()).unwrap();
    let report = staying.await.unwrap().unwrap();
    // ping, answer, flood and half answer the beat; silent and deaf do not.
    assert_eq!(counts["pong"], 4);
    assert!(!counts.contains_key("else"), "{counts:?}");
    for kind in ["ping", "answer", "flood", "silent", "deaf", "half"] {
        assert_eq!(report["kinds"][kind]["alive"], 1, "{kind}: {report}");
    }
    assert!(report["kinds"]["ping"]["pongs"]["count"].as_u64() >= Some(2), "{report}");
    assert_eq!(report["kinds"]["silent"]["beats"]["count"], 1);
    assert_eq!(report["kinds"]["deaf"]["beats"]["count"], 0);
    let gap = report["kinds"]["answer"]["beats"]["worst_gap"].as_f64().unwrap();
    assert!(gap > 0.0 && gap <= report["seconds"].as_f64().unwrap() + 1.0, "{report}");
}

#[tokio::test]
async fn held_peers_report_who_closed_them_and_how() {
    let closed = Arc::new(Semaphore::new(0));
    let both = closed.clone();
    let url = server(move |mut peer| {
        let closed = closed.clone();
        async move {
            if let Some(Ok(Message::Ping(_))) = peer.next().await {
                let frame =
                    tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 4321.into(), reason: "go".into() };
                peer.close(Some(frame)).await.unwrap();
                while let Some(Ok(_)) = peer.next().await {}
                closed.add_permits(1);
            }
        }
    })
    .await;
    let crowd = hold(url, "ping=2,answer=1");
    let report = crowd.run(|| {}, async { drop(both.acquire_many(2).await) }).await.unwrap();
    let ping = &report["kinds"]["ping"];
    assert_eq!(ping["alive"], 0, "{report}");
    assert_eq!(ping["closed"][0]["code"], 4321);
    assert_eq!(ping["closed"][0]["reason"], "go");
    assert_eq!(ping["closed"][0]["count"], 2);
    assert_eq!(report["kinds"]["answer"]["alive"], 1);
}

#[tokio::test]
async fn held_peers_stay_for_what_is_on_its_way() {
    let over = Arc::new(Semaphore::new(0));
    let ended = over.clone();
    let url = server(move |mut peer| {
        let over = over.clone();
        async move {
            drop(over.acquire().await.unwrap());
            for text in ["one", "two"] {
                peer.send(Message::text(text)).await.unwrap();
            }
            while let Some(Ok(_)) = peer.next().await {}
        }
    })
    .await;
    let crowd = Hold { messages: 2, ..hold(url, "answer=3,silent=1") };
    let report = crowd.run(|| {}, async { ended.add_permits(1) }).await.unwrap();
    assert_eq!(report["kinds"]["answer"]["fewest_messages"], 2, "{report}");
}
