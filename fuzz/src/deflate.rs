//! permessage-deflate: what it is made of in the handshake, and messages of anything.

use bytes::BytesMut;
use lifeline_proto::deflate::negotiate::{accept, conclude, offer};
use lifeline_proto::deflate::{DeflateConfig, Deflater, InflateError, Inflater, Output};
use lifeline_proto::frame::{Opcode, Role, apply_mask, put_header};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

use crate::messages_of;

const MOST: usize = 4096;

fn config(flags: u8) -> DeflateConfig {
    DeflateConfig {
        level: 1 + flags % 9,
        context_takeover: flags & 0x10 > 0,
        window_bits: 9 + (flags >> 5) % 7,
        threshold: 0,
    }
}

/// `Sec-WebSocket-Extensions` of any content, as an offer and as an answer. What one of ours accepts, the other one
/// of ours takes for an answer to its own offer.
///
/// The first byte is the configuration; lines of the header are separated by 0x0A.
pub fn extensions(data: &[u8]) {
    let Some((&flags, rest)) = data.split_first() else { return };
    let config = config(flags);
    let lines = || rest.split(|byte| *byte == b'\n');
    if let Ok(Some(agreement)) = accept(lines(), &config) {
        let response = agreement.response();
        assert!(agreement.server.can_compress(), "{response}");
        assert!(agreement.server.window_bits <= config.window_bits && agreement.client.window_bits <= 15);
        assert!(config.context_takeover || !(agreement.server.takeover || agreement.client.takeover), "{response}");
        assert!(response.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{response}");
    }
    match conclude(lines(), &config) {
        Ok(Some(agreement)) => {
            assert!(config.context_takeover || !(agreement.server.takeover || agreement.client.takeover));
            assert!(agreement.server.window_bits <= config.window_bits, "{agreement:?}");
        }
        Ok(None) => {}
        Err(why) => assert!(!why.is_empty()),
    }
    let offered = offer(&config);
    let agreed = accept([offered.as_bytes()], &config).unwrap().expect("our own offer");
    let concluded = conclude([agreed.response().as_bytes()], &config).unwrap().expect("our own answer");
    assert_eq!((agreed.server, agreed.client), (concluded.server, concluded.client), "{offered}");
}

/// Inflates by another library, whole messages at once. Kept from message to message where there is takeover.
struct Reference {
    state: Box<InflateState>,
    takeover: bool,
}

impl Reference {
    fn new(takeover: bool) -> Self {
        Self { state: InflateState::new_boxed(DataFormat::Raw), takeover }
    }

    /// `None`: it is none, or longer than `MOST`.
    fn message(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let input = [payload, &[0, 0, 0xFF, 0xFF]].concat();
        let mut input = &input[..];
        let mut out = Vec::new();
        let mut room = [0; 2 * MOST];
        let mut ended = false;
        loop {
            if ended && input.len() <= 4 {
                // A last block, and nothing behind it but what was put back.
                self.state = InflateState::new_boxed(DataFormat::Raw);
                break;
            }
            if ended {
                self.state = InflateState::new_boxed(DataFormat::Raw);
                ended = false;
            }
            let result = inflate(&mut self.state, input, &mut room, MZFlush::None);
            input = &input[result.bytes_consumed..];
            out.extend_from_slice(&room[..result.bytes_written]);
            if out.len() > MOST {
                return None;
            }
            match result.status {
                Ok(MZStatus::StreamEnd) => ended = true,
                Ok(_) | Err(MZError::Buf) if result.bytes_consumed + result.bytes_written > 0 => {}
                Ok(_) | Err(MZError::Buf) => break,
                Err(_) => return None,
            }
        }
        if !self.takeover {
            self.state = InflateState::new_boxed(DataFormat::Raw);
        }
        Some(out)
    }
}

fn inflated(payload: &[u8], chunk: usize, takeover: bool, inflater: &mut Inflater) -> Result<Vec<u8>, InflateError> {
    let mut buffer = Vec::new();
    let mut output = Output { buffer: &mut buffer, most: MOST };
    for piece in payload.chunks(chunk) {
        inflater.push(piece, &mut output)?;
        assert!(output.buffer.len() <= MOST && output.buffer.capacity() <= MOST, "more than is allowed");
    }
    inflater.finish(takeover, &mut output)?;
    assert!(buffer.len() <= MOST && buffer.capacity() <= MOST, "more than is allowed");
    Ok(buffer)
}

/// Messages of any bytes, in whatever pieces they come: never more than is allowed, and what another library makes of
/// them; what is compressed is read.
///
/// The first byte is the configuration, the second the size of pieces; messages are separated by 0xFF 0xFE.
pub fn deflate(data: &[u8]) {
    let [flags, chunk, rest @ ..] = data else { return };
    let config = config(*flags);
    let takeover = config.context_takeover;
    let mut messages = Vec::new();
    let mut start = 0;
    while let Some(at) = rest[start..].windows(2).position(|window| window == [0xFF, 0xFE]) {
        messages.push(&rest[start..start + at]);
        start += at + 2;
    }
    messages.push(&rest[start..]);
    let (mut whole, mut pieces, mut reference) = (Inflater::new(), Inflater::new(), Reference::new(takeover));
    for payload in messages.iter().filter(|payload| !payload.is_empty()) {
        let at_once = inflated(payload, usize::MAX, takeover, &mut whole).ok();
        let in_pieces = inflated(payload, 1 + usize::from(*chunk), takeover, &mut pieces).ok();
        assert_eq!(at_once, in_pieces);
        let expected = reference.message(payload);
        if let (Some(ours), Some(theirs)) = (&at_once, &expected) {
            assert_eq!(ours, theirs);
        }
        // One alone may refuse it: a message that ends within a block, or a table that is not complete.
        if at_once.is_none() {
            break;
        }
    }
    // The same over frames: a violation or the messages.
    let mut stream = Vec::new();
    for payload in &messages {
        let mut frame = BytesMut::new();
        let (first, second) = payload.split_at(payload.len() / 2);
        let key = [1, *flags, 3, *chunk];
        for (part, fin, opcode) in [(first, false, Opcode::Binary), (second, true, Opcode::Continuation)] {
            put_header(&mut frame, fin, !fin, opcode, part.len(), Some(key));
            let start = frame.len();
            frame.extend_from_slice(part);
            apply_mask(&mut frame[start..], key, 0);
        }
        stream.extend_from_slice(&frame);
    }
    let read = |chunk| messages_of(Role::Server, stream.clone(), chunk, true, Some(takeover));
    let (items, code) = read(usize::MAX);
    let (again, same) = read(1 + usize::from(*chunk));
    assert_eq!((items, code.is_some()), (again, same.is_some()));
    assert!(matches!(code, None | Some(1007 | 1008 | 1009)), "{code:?}");
    // And back.
    let mut deflater = Deflater::new(config.level, config.window_bits);
    let mut inflater = Inflater::new();
    for message in &messages {
        let (first, second) = message.split_at(message.len() / 3);
        let mut compressed = Vec::new();
        deflater.compress(&[first, second], &mut compressed);
        if !takeover {
            deflater.reset();
        }
        let message = &message[..message.len().min(MOST)];
        assert_eq!(inflated(&compressed, 1 + usize::from(*chunk), takeover, &mut inflater).as_deref(), Ok(message));
    }
}
