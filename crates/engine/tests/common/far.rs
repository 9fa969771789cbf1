//! A server that speaks `lifeline.v1` and is not ours: the rules over tokio-tungstenite, without the
//! engine. It can lose its link behind any frame.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use lifeline_proto::Time;
use lifeline_proto::v1::server::{LinkId, Output, Server, ServerConfig};
use lifeline_proto::v1::wire::{ClientFrame, PROTOCOL, ServerFrame};
use lifeline_proto::v1::{ChannelName, Key};
use parking_lot::{Mutex, MutexGuard};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// What happens to a connection of [`Far`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// The link is cut behind so many frames of the client's.
    pub after_client: Option<usize>,
    /// The link is cut behind so many frames of the server's; what it says after them is lost.
    pub after_server: Option<usize>,
}

type Authenticate = fn(Option<&str>) -> Result<Option<Arc<str>>, u16>;

enum Order {
    Send(Message),
    Close(u16, String),
}

pub struct Rules {
    pub server: Server<StdRng>,
    pub config: ServerConfig,
    links: HashMap<LinkId, UnboundedSender<Order>>,
    next_link: u64,
    begin: Instant,
    /// Of the connections to come; none left: nothing happens to them.
    pub fates: VecDeque<Fate>,
    /// Frames of each connection so far, the client's and the server's.
    pub frames: Vec<(usize, usize)>,
    /// Items handled: number in the outbox and text.
    pub handled: Vec<(u64, String)>,
    /// Tokens shown, in order.
    pub tokens: Vec<Option<String>>,
    /// What is said to a token.
    pub authenticate: Authenticate,
    /// What is done with an item.
    pub handle: fn(&str) -> Verdict,
    /// The state of every channel.
    pub state: Option<(Bytes, bool)>,
    /// Close frames of clients.
    pub closes: Vec<u16>,
    pub beats: usize,
    /// Answers no more.
    pub mute: bool,
    pub client_frames: Vec<ClientFrame>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    Failed,
    Later,
    Never,
    /// Nobody ends its handling.
    Hang,
}

#[derive(Clone)]
pub struct Far {
    pub port: u16,
    rules: Arc<Mutex<Rules>>,
}

impl Far {
    pub async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rules = Rules {
            server: Server::new(config.clone(), StdRng::from_os_rng()),
            config,
            links: HashMap::new(),
            next_link: 1,
            begin: Instant::now(),
            fates: VecDeque::new(),
            frames: Vec::new(),
            handled: Vec::new(),
            tokens: Vec::new(),
            authenticate: |_| Ok(None),
            handle: |_| Verdict::Done,
            state: None,
            closes: Vec::new(),
            beats: 0,
            mute: false,
            client_frames: Vec::new(),
        };
        let far = Self { port, rules: Arc::new(Mutex::new(rules)) };
        let accepting = far.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(socket));
            }
        });
        far
    }

    /// With what follows carried out when it is dropped.
    pub fn rules(&self) -> Guard<'_> {
        Guard(self.rules.lock())
    }

    /// A new server in its place: memory lost, links cut.
    pub fn restart(&self) {
        self.rules.lock().restart();
    }

    /// [`Far::restart`], and the new one has handled so many items of an outbox.
    pub fn restart_knowing(&self, outbox: &Key, items: u64) {
        let mut rules = self.rules();
        rules.restart();
        let now = rules.now();
        let link = LinkId(u64::MAX);
        rules.server.handle_connected(now, link);
        let hello = format!(r#"H {{"v":1,"outbox":{{"id":"{outbox}","gen":1,"first":1,"next":{}}}}}"#, items + 1);
        let frames = std::iter::once(hello).chain((1..=items).map(|q| format!("P {q}\nelsewhere")));
        for frame in frames {
            rules.server.handle_message(now, link, &Bytes::from(frame), false);
        }
    }

    /// Cuts every link.
    pub fn cut(&self) {
        self.rules.lock().links.clear();
    }

    /// The session of the only connection.
    pub fn session(&self) -> Key {
        self.rules.lock().only_session().expect("a session")
    }

    async fn serve(self, socket: TcpStream) {
        #[allow(clippy::result_large_err, clippy::unnecessary_wraps)]
        let choose = |_: &Request, mut response: Response| {
            response.headers_mut().insert("Sec-WebSocket-Protocol", PROTOCOL.parse().unwrap());
            response.headers_mut().insert("Lifeline-Spread", "0.001".parse().unwrap());
            Ok(response)
        };
        let Ok(mut socket) = accept_hdr_async(socket, choose).await else { return };
        let (sender, mut orders): (_, UnboundedReceiver<Order>) = unbounded_channel();
        let (link, fate, index) = {
            let mut rules = self.rules();
            let link = LinkId(rules.next_link);
            rules.next_link += 1;
            rules.links.insert(link, sender);
            rules.frames.push((0, 0));
            let now = rules.now();
            rules.server.handle_connected(now, link);
            (link, rules.fates.pop_front().unwrap_or_default(), rules.frames.len() - 1)
        };
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        self.receive(link, index, text.as_bytes(), false);
                    }
                    Some(Ok(Message::Binary(data))) => self.receive(link, index, &data, true),
                    Some(Ok(Message::Close(frame))) => {
                        self.rules().closes.push(frame.map_or(1005, |frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                },
                order = orders.recv() => match order {
                    Some(Order::Send(message)) => {
                        if socket.send(message).await.is_err() {
                            break;
                        }
                        let mut rules = self.rules();
                        rules.frames[index].1 += 1;
                    }
                    Some(Order::Close(code, reason)) => {
                        let frame = CloseFrame { code: code.into(), reason: reason.into() };
                        let _ = socket.close(Some(frame)).await;
                        while let Some(Ok(_)) = socket.next().await {}
                        break;
                    }
                    None => break,
                },
                _ = tick.tick() => {
                    let mut rules = self.rules();
                    let now = rules.now();
                    rules.server.handle_timeout(now);
                }
            }
            let frames = self.rules.lock().frames[index];
            if fate.after_client.is_some_and(|most| frames.0 >= most)
                || fate.after_server.is_some_and(|most| frames.1 >= most)
            {
                break;
            }
        }
        let mut rules = self.rules();
        rules.links.remove(&link);
        let now = rules.now();
        rules.server.handle_lost(now, link);
    }

    fn receive(&self, link: LinkId, index: usize, data: &[u8], binary: bool) {
        let mut rules = self.rules();
        rules.frames[index].0 += 1;
        let data = Bytes::copy_from_slice(data);
        let frame = ClientFrame::decode(&data, binary, 1 << 20);
        if let Ok(Some(frame)) = frame {
            rules.client_frames.push(frame);
        }
        let now = rules.now();
        rules.server.handle_message(now, link, &data, binary);
    }
}

/// Carries out what follows when it goes.
pub struct Guard<'a>(MutexGuard<'a, Rules>);

impl std::ops::Deref for Guard<'_> {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.0
    }
}

impl std::ops::DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Rules {
        &mut self.0
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.follow();
    }
}

impl Rules {
    fn restart(&mut self) {
        self.links.clear();
        self.server = Server::new(self.config.clone(), StdRng::from_os_rng());
    }

    pub fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.begin.elapsed().as_micros()).unwrap() + 1)
    }

    /// The session of the only connection, once it has one.
    pub fn only_session(&self) -> Option<Key> {
        let link = self.links.keys().next()?;
        self.server.session_of(*link).cloned()
    }

    pub fn knows(&self, session: &Key) -> bool {
        self.server.session(session).is_some()
    }

    /// To the session.
    pub fn send(&mut self, session: &Key, text: &str) {
        let now = self.now();
        self.server.send(now, session, Bytes::copy_from_slice(text.as_bytes()), false).expect("a session");
    }

    pub fn publish(&mut self, channel: &str, text: &str) {
        let now = self.now();
        self.server.publish(now, &ChannelName::new(channel).unwrap(), text.as_bytes(), false);
    }

    /// Says something that the rules would not.
    pub fn say(&self, frame: &ServerFrame) {
        for link in self.links.values() {
            let frame = frame.encode();
            let text = String::from_utf8(frame.data.to_vec()).unwrap();
            let _ = link.send(Order::Send(Message::text(text)));
        }
    }

    /// Beats every client.
    pub fn beat(&mut self, n: u64) {
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.server.beat(link, n);
        }
    }

    /// Closes every connection.
    pub fn disconnect(&mut self, code: u16) {
        let now = self.now();
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.server.disconnect(now, link, code, "as the test asked");
        }
    }

    fn follow(&mut self) {
        let now = self.now();
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Answered { .. } => self.beats += 1,
                Output::Authenticate { link, auth, .. } => {
                    let token = auth.map(|auth| auth.0);
                    let answer = (self.authenticate)(token.as_deref());
                    self.tokens.push(token);
                    self.server.handle_authenticated(now, link, answer);
                }
                Output::Authorise { link, channel } => {
                    let allowed = !channel.as_str().starts_with("secret");
                    self.server.handle_authorised(now, link, &channel, allowed);
                }
                Output::Close { link, code, reason } => {
                    if let Some(link) = self.links.remove(&link) {
                        let _ = link.send(Order::Close(code, reason));
                    }
                }
                Output::Deliver { outbox, delivery, .. } => {
                    let text = String::from_utf8_lossy(&delivery.data).into_owned();
                    if self.server.handle_start(&outbox, delivery.id) == lifeline_proto::v1::inbox::Start::Stale {
                        continue;
                    }
                    match (self.handle)(&text) {
                        Verdict::Done => {
                            self.handled.push((delivery.id.sequence, text));
                            self.server.handle_done(now, &outbox, delivery.id);
                        }
                        Verdict::Failed => self.server.handle_failed(now, &outbox, delivery.id),
                        Verdict::Later | Verdict::Never => {
                            let permanent = (self.handle)(&text) == Verdict::Never;
                            self.server.handle_rejected(now, &outbox, delivery.id, 7, "no".into(), permanent);
                        }
                        Verdict::Hang => {}
                    }
                    self.server.handle_batch_end();
                }
                Output::Edit { .. } => panic!("the application is not asked about edits"),
                Output::Snapshot { link, channel, position } => {
                    self.server.handle_snapshot(link, &channel, &position, self.state.clone());
                }
                Output::Transmit { link } => {
                    while let Some(outgoing) = self.server.poll_transmit(now, link) {
                        let message = outgoing.encode();
                        let message = if message.binary {
                            Message::binary(message.data)
                        } else {
                            Message::text(String::from_utf8(message.data.to_vec()).unwrap())
                        };
                        if let Some(link) = self.links.get(&link).filter(|_| !self.mute) {
                            let _ = link.send(Order::Send(message));
                        }
                    }
                }
                Output::Edited { .. }
                | Output::Opened { .. }
                | Output::SessionEnded { .. }
                | Output::Store { .. }
                | Output::Subscribed { .. } => {}
            }
        }
    }
}
