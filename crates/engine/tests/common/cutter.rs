//! A proxy that cuts a WebSocket connection behind a whole frame.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::far::Fate;

#[derive(Clone)]
pub struct Cutter {
    pub port: u16,
    /// Of the connections to come; none left: nothing happens to them.
    pub fates: Arc<Mutex<VecDeque<Fate>>>,
    /// Frames of each connection so far, the client's and the server's.
    pub frames: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Cutter {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cutter =
            Self { port: listener.local_addr().unwrap().port(), fates: Arc::default(), frames: Arc::default() };
        let accepting = cutter.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                tokio::spawn(accepting.clone().serve(client, server));
            }
        });
        cutter
    }

    async fn serve(self, client: TcpStream, server: TcpStream) {
        let fate = self.fates.lock().pop_front().unwrap_or_default();
        let index = {
            let mut frames = self.frames.lock();
            frames.push((0, 0));
            frames.len() - 1
        };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let ((client_reader, client_writer), (server_reader, server_writer)) =
            (client.into_split(), server.into_split());
        let count = |of_client: bool| {
            let frames = self.frames.clone();
            move || {
                let mut frames = frames.lock();
                if of_client { frames[index].0 += 1 } else { frames[index].1 += 1 }
            }
        };
        // Whichever ends first takes the other along: both sockets are dropped.
        tokio::select! {
            () = pass(client_reader, server_writer, fate.after_client, count(true)) => {}
            () = pass(server_reader, client_writer, fate.after_server, count(false)) => {}
        }
    }
}

/// Passes the HTTP head and whole frames on, at most so many.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, most: Option<usize>, count: impl Fn()) {
    let mut buffer = Vec::new();
    let mut head = true;
    let mut passed = 0;
    loop {
        let end = if head { find_head(&buffer) } else { frame_len(&buffer) };
        if let Some(end) = end.filter(|end| *end <= buffer.len()) {
            if !head && most.is_some_and(|most| passed >= most) {
                return;
            }
            if to.write_all(&buffer[..end]).await.is_err() {
                return;
            }
            buffer.drain(..end);
            if !std::mem::take(&mut head) {
                passed += 1;
                count();
                if most == Some(passed) {
                    return;
                }
            }
            continue;
        }
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn find_head(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// RFC 6455 section 5.2.
fn frame_len(buffer: &[u8]) -> Option<usize> {
    let second = usize::from(*buffer.get(1)?);
    let (length, head) = match second & 0x7F {
        126 => (usize::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().unwrap())), 4),
        127 => (usize::try_from(u64::from_be_bytes(buffer.get(2..10)?.try_into().unwrap())).unwrap(), 10),
        short => (short, 2),
    };
    Some(head + if second & 0x80 > 0 { 4 } else { 0 } + length)
}
