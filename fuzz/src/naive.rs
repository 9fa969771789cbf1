//! RFC 6455's frames once more, read from the whole of what has come, without a thought for speed: what the decoder
//! is compared with.

use lifeline_proto::frame::{FrameLimits, Role};

#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

/// What `input` says up to its end, and the code to fail the connection with where it says nothing allowed.
pub fn read(role: Role, input: &[u8], limits: FrameLimits) -> (Vec<Read>, Option<u16>) {
    let mut reader = Reader { input, at: 0, items: Vec::new(), message: None };
    let code = reader.run(role, limits).err().flatten();
    (reader.items, code)
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    items: Vec<Read>,
    /// Text, payload so far, frames.
    message: Option<(bool, Vec<u8>, u32)>,
}

/// `None`: the input is at its end.
type Stop = Option<u16>;

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Stop> {
        let byte = self.input.get(self.at).copied().ok_or(None)?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self, bytes: u32) -> Result<u64, Stop> {
        (0..bytes).try_fold(0, |number, _| Ok(number << 8 | u64::from(self.byte()?)))
    }

    fn run(&mut self, role: Role, limits: FrameLimits) -> Result<(), Stop> {
        loop {
            let first = self.byte()?;
            let (fin, opcode) = (first & 0x80 > 0, first & 0x0F);
            let known = matches!(opcode, 0..=2 | 8..=10);
            let continues = opcode == 0;
            let control = opcode >= 8;
            if first & 0x70 > 0 || !known || (control && !fin) || (!control && continues != self.message.is_some()) {
                return Err(Some(1002));
            }
            let second = self.byte()?;
            let masked = second & 0x80 > 0;
            let short = second & 0x7F;
            if masked != (role == Role::Server) || (control && short > 125) {
                return Err(Some(1002));
            }
            let extended = match short {
                126 => Some(self.number(2)?),
                127 => Some(self.number(8)?),
                _ => None,
            };
            let key = if masked { self.number(4)? as u32 } else { 0 }.to_be_bytes();
            let least = if short == 126 { 126 } else { 65_536 };
            if extended.is_some_and(|length| length < least || length > i64::MAX as u64) {
                return Err(Some(1002));
            }
            let length = extended.unwrap_or(short.into());
            if !control {
                let (text, payload, frames) = self.message.take().unwrap_or((opcode == 1, Vec::new(), 0));
                if length > limits.max_frame as u64 || length + payload.len() as u64 > limits.max_message as u64 {
                    return Err(Some(1009));
                }
                if frames + 1 > limits.max_fragments {
                    return Err(Some(1008));
                }
                self.message = Some((text, payload, frames + 1));
            }
            let mut payload = Vec::new();
            let mut whole = true;
            for index in 0..length as usize {
                let Ok(byte) = self.byte() else {
                    whole = false;
                    break;
                };
                payload.push(byte ^ key[index % 4]);
            }
            if control {
                if !whole {
                    return Err(None);
                }
                self.items.push(match opcode {
                    8 => Read::Close(close(&payload)?),
                    9 => Read::Ping(payload),
                    _ => Read::Pong(payload),
                });
                continue;
            }
            let Some((text, mut data, frames)) = self.message.take() else { return Err(None) };
            data.extend(payload);
            if text && let Err(error) = std::str::from_utf8(&data) {
                // What more could follow is judged when it has come.
                if error.error_len().is_some() || (whole && fin) {
                    return Err(Some(1007));
                }
            }
            if !whole {
                return Err(None);
            }
            if fin {
                self.items.push(if text { Read::Text(data) } else { Read::Binary(data) });
            } else {
                self.message = Some((text, data, frames));
            }
        }
    }
}

/// Section 7.4 and IANA's registry.
fn close(payload: &[u8]) -> Result<Option<(u16, String)>, Stop> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() { Ok(None) } else { Err(Some(1002)) };
    };
    let code = u16::from(*high) << 8 | u16::from(*low);
    let registered = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
    if !registered.contains(&code) && !(3000..5000).contains(&code) {
        return Err(Some(1002));
    }
    match String::from_utf8(reason.to_vec()) {
        Ok(reason) => Ok(Some((code, reason))),
        Err(_) => Err(Some(1007)),
    }
}
