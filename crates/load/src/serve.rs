//! A server for measuring clients: it floods, swallows or cuts, and costs next to nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::train::server_frame;
use crate::ws::opcode;

/// Frames of one write.
const BATCH: usize = 512;
/// How long a connection on /cut is open.
const OPEN: Duration = Duration::from_millis(20);

/// What `serve` does with a connection, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// /flood: messages without end.
    Flood,
    /// /cut: RST a moment after the upgrade.
    Cut,
    /// Any other: reads, answers nothing.
    Sink,
}

/// Serves for ever; `bound` gets the address.
///
/// # Errors
/// The address cannot be bound.
pub fn serve(listen: SocketAddr, size: usize, text: bool, bound: impl FnOnce(SocketAddr)) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("--listen {listen}"))?;
    bound(listener.local_addr()?);
    let kind = if text { opcode::TEXT } else { opcode::BINARY };
    let frames = server_frame(kind, &vec![b'x'; size]).repeat(BATCH.min((1 << 20) / (size + 1)).max(1));
    for stream in listener.incoming() {
        let (Ok(stream), frames) = (stream, frames.clone()) else { continue };
        // A peer that leaves ends its own thread only.
        std::thread::spawn(move || one(stream, &frames));
    }
    Ok(())
}

fn one(mut stream: TcpStream, frames: &[u8]) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    let mut chunk = vec![0; 256 * 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let length = stream.read(&mut chunk)?;
        ensure!(length > 0 && head.len() < 16 * 1024, "no request");
        head.extend_from_slice(&chunk[..length]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("/");
    let key = head.lines().filter_map(|line| line.split_once(':'));
    let key = key.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map(|(_, key)| key.trim()).next();
    let accept = accept_key(key.context("no key")?);
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    let manner = match path {
        "/flood" => Manner::Flood,
        "/cut" => Manner::Cut,
        _ => Manner::Sink,
    };
    match manner {
        Manner::Cut => {
            std::thread::sleep(OPEN);
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Manner::Flood => {
            // What the client says (beats, its close) must not fill its buffers.
            let mut reads = stream.try_clone()?;
            std::thread::spawn(move || while reads.read(&mut chunk).is_ok_and(|length| length > 0) {});
            while stream.write_all(frames).is_ok() {}
        }
        Manner::Sink => loop {
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Err(error) => return Err(error.into()),
            }
        },
    }
    Ok(())
}

/// RFC 6455 section 4.2.2: base64 of SHA-1 of the key and a constant.
fn accept_key(key: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let mut text = String::new();
    for three in digest.chunks(3) {
        let at = |index: usize| u32::from(*three.get(index).unwrap_or(&0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place) & 63) as usize;
            text.push(if place <= three.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}

/// FIPS 180-4; for the handshake only.
#[expect(clippy::many_single_char_names, reason = "the names of the standard")]
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state = [0x6745_2301_u32, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        for at in 16..80 {
            words[at] = (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in words.into_iter().enumerate() {
            let (mixed, constant) = match at / 20 {
                0 => (b & c | !b & d, 0x5A82_7999),
                1 => (b ^ c ^ d, 0x6ED9_EBA1),
                2 => (b & c | b & d | c & d, 0x8F1B_BCDC),
                _ => (b ^ c ^ d, 0xCA62_C1D6_u32),
            };
            let next = a.rotate_left(5).wrapping_add(mixed).wrapping_add(e).wrapping_add(constant).wrapping_add(word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_the_rfcs_nonce() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
