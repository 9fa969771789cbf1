//! Which parameters hold (RFC 7692 sections 5 and 7.1; the header's grammar is RFC 6455 section 9.1).

use std::fmt::Write as _;

use super::{DeflateConfig, LEAST_WINDOW_BITS, MOST_WINDOW_BITS};

/// The extension's name.
pub const EXTENSION: &str = "permessage-deflate";

const SERVER_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";

/// How one end compresses what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its window is kept from message to message.
    pub takeover: bool,
    /// 8 to 15.
    pub window_bits: u8,
}

impl Side {
    /// Whether our compressor can do it.
    #[must_use]
    pub fn can_compress(self) -> bool {
        self.window_bits >= LEAST_WINDOW_BITS
    }
}

/// What both ends have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// What the server sends.
    pub server: Side,
    /// What the client sends.
    pub client: Side,
    /// The offer limited the server's window: then the response has to say how.
    limits_server: bool,
}

/// The header is not of the form that RFC 6455 section 9.1 prescribes: the handshake has to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed Sec-WebSocket-Extensions")]
pub struct Malformed;

/// Server: takes the first offer that can be carried out, of the header's lines. `None`: none can, and the
/// connection goes on without.
///
/// # Errors
/// [`Malformed`].
pub fn accept<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    config: &DeflateConfig,
) -> Result<Option<Agreement>, Malformed> {
    let mut accepted = None;
    for line in lines {
        for extension in parse(line)? {
            if accepted.is_none() && extension.name == EXTENSION {
                accepted = Agreement::of_offer(&extension, config);
            }
        }
    }
    Ok(accepted)
}

/// Client: the header's value.
#[must_use]
pub fn offer(config: &DeflateConfig) -> String {
    let mut value = EXTENSION.to_owned();
    if !config.context_takeover {
        put(&mut value, SERVER_TAKEOVER, None);
        put(&mut value, CLIENT_TAKEOVER, None);
    }
    let limited = (config.window_bits < MOST_WINDOW_BITS).then_some(config.window_bits);
    if limited.is_some() {
        put(&mut value, SERVER_BITS, limited);
    }
    // Without a value: the server may choose.
    put(&mut value, CLIENT_BITS, limited);
    value
}

/// Client: what the server's answer to [`offer`] comes to, of the header's lines. `None`: it has declined.
///
/// # Errors
/// What is wrong with the answer, in words: the connection has to fail (RFC 7692 section 7.1).
pub fn conclude<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    config: &DeflateConfig,
) -> Result<Option<Agreement>, String> {
    let mut extensions = Vec::new();
    for line in lines {
        extensions.extend(parse(line).map_err(|_| "it is malformed".to_owned())?);
    }
    let Some(extension) = extensions.first() else { return Ok(None) };
    if let Some(other) = extensions.iter().find(|extension| extension.name != EXTENSION) {
        return Err(format!("{} was not offered", other.name));
    }
    if extensions.len() > 1 {
        return Err(format!("{EXTENSION} is there more than once"));
    }
    Agreement::of_response(extension, config).map(Some)
}

impl Agreement {
    /// Of an offer; `None`: it cannot be carried out.
    fn of_offer(offer: &Extension<'_>, config: &DeflateConfig) -> Option<Self> {
        let params = Params::read(offer, false).ok()?;
        let server = Side {
            takeover: config.context_takeover && !params.server_takeover_barred,
            window_bits: params.server_bits.unwrap_or(MOST_WINDOW_BITS).min(config.window_bits),
        };
        let client = Side {
            takeover: config.context_takeover && !params.client_takeover_barred,
            // It has to do as we say only where it says so.
            window_bits: params.client_bits.map_or(MOST_WINDOW_BITS, |bits| bits.most().min(config.window_bits)),
        };
        let limits_server = params.server_bits.is_some();
        server.can_compress().then_some(Self { server, client, limits_server })
    }

    fn of_response(response: &Extension<'_>, config: &DeflateConfig) -> Result<Self, String> {
        let params = Params::read(response, true)?;
        if !config.context_takeover && !params.server_takeover_barred {
            return Err(format!("{SERVER_TAKEOVER} was asked for and is missing"));
        }
        let server_bits = match params.server_bits {
            Some(bits) if bits > config.window_bits => {
                return Err(format!("{SERVER_BITS}={bits} is more than the {} offered", config.window_bits));
            }
            None if config.window_bits < MOST_WINDOW_BITS => {
                return Err(format!("{SERVER_BITS} was asked for and is missing"));
            }
            bits => bits.unwrap_or(MOST_WINDOW_BITS),
        };
        let client_bits = params.client_bits.map_or(MOST_WINDOW_BITS, ClientBits::most).min(config.window_bits);
        Ok(Self {
            server: Side { takeover: !params.server_takeover_barred, window_bits: server_bits },
            client: Side {
                takeover: config.context_takeover && !params.client_takeover_barred,
                window_bits: client_bits,
            },
            limits_server: params.server_bits.is_some(),
        })
    }

    /// Server: nothing is kept from message to message after all. Sections 7.1.1.1 and 7.1.1.2 allow to say so
    /// whatever was offered.
    #[must_use]
    pub fn without_takeover(mut self) -> Self {
        self.server.takeover = false;
        self.client.takeover = false;
        self
    }

    /// Server: the response's header value.
    #[must_use]
    pub fn response(&self) -> String {
        let mut value = EXTENSION.to_owned();
        if !self.server.takeover {
            put(&mut value, SERVER_TAKEOVER, None);
        }
        if !self.client.takeover {
            put(&mut value, CLIENT_TAKEOVER, None);
        }
        if self.limits_server || self.server.window_bits < MOST_WINDOW_BITS {
            put(&mut value, SERVER_BITS, Some(self.server.window_bits));
        }
        // Smaller only where the client has said that it can (section 7.1.2.2).
        if self.client.window_bits < MOST_WINDOW_BITS {
            put(&mut value, CLIENT_BITS, Some(self.client.window_bits));
        }
        value
    }
}

fn put(value: &mut String, name: &str, bits: Option<u8>) {
    // Writing to a string does not fail.
    let _ = match bits {
        Some(bits) => write!(value, "; {name}={bits}"),
        None => write!(value, "; {name}"),
    };
}

/// `client_max_window_bits`, in an offer with a value or without.
#[derive(Clone, Copy, Debug)]
enum ClientBits {
    Any,
    AtMost(u8),
}

impl ClientBits {
    fn most(self) -> u8 {
        match self {
            Self::Any => MOST_WINDOW_BITS,
            Self::AtMost(bits) => bits,
        }
    }
}

/// The parameters of section 7.1, each once, with a value where it has one.
#[derive(Debug, Default)]
struct Params {
    server_takeover_barred: bool,
    client_takeover_barred: bool,
    server_bits: Option<u8>,
    client_bits: Option<ClientBits>,
}

impl Params {
    /// # Errors
    /// What is wrong, in words.
    fn read(extension: &Extension<'_>, in_response: bool) -> Result<Self, String> {
        let mut params = Self::default();
        for (name, value) in &extension.params {
            let flag = || match value {
                None => Ok(true),
                Some(value) => Err(format!("{name} takes no value and has {value:?}")),
            };
            let bits = || match value {
                None => Err(format!("{name} has no value")),
                Some(value) => parse_bits(value).ok_or_else(|| format!("{name} is {value:?}, allowed are 8 to 15")),
            };
            let client_bits = || match value {
                None if !in_response => Ok(ClientBits::Any),
                _ => bits().map(ClientBits::AtMost),
            };
            let seen = match *name {
                SERVER_TAKEOVER => std::mem::replace(&mut params.server_takeover_barred, flag()?),
                CLIENT_TAKEOVER => std::mem::replace(&mut params.client_takeover_barred, flag()?),
                SERVER_BITS => params.server_bits.replace(bits()?).is_some(),
                CLIENT_BITS => params.client_bits.replace(client_bits()?).is_some(),
                _ => return Err(format!("it has the unknown parameter {name:?}")),
            };
            if seen {
                return Err(format!("{name} is there more than once"));
            }
        }
        Ok(params)
    }
}

/// Decimal without leading zeros, 8 to 15.
fn parse_bits(value: &str) -> Option<u8> {
    if value.starts_with('0') || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|bits| (8..=MOST_WINDOW_BITS).contains(bits))
}

/// One element of the header.
#[derive(Debug)]
struct Extension<'a> {
    name: &'a str,
    params: Vec<(&'a str, Option<String>)>,
}

/// A line of the header.
fn parse(line: &[u8]) -> Result<Vec<Extension<'_>>, Malformed> {
    let mut cursor = Cursor(std::str::from_utf8(line).map_err(|_| Malformed)?);
    let mut extensions = Vec::new();
    loop {
        // Empty elements are ignored (RFC 9110 section 5.6.1.2).
        while cursor.take(',') {}
        if cursor.is_empty() {
            return Ok(extensions);
        }
        let mut extension = Extension { name: cursor.token()?, params: Vec::new() };
        while cursor.take(';') {
            let name = cursor.token()?;
            let value = if cursor.take('=') { Some(cursor.value()?) } else { None };
            extension.params.push((name, value));
        }
        extensions.push(extension);
        if !cursor.is_empty() && !cursor.take(',') {
            return Err(Malformed);
        }
    }
}

/// What is left of a line.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn is_empty(&mut self) -> bool {
        self.skip_blanks();
        self.0.is_empty()
    }

    /// Whether `mark` comes next; it is taken then.
    fn take(&mut self, mark: char) -> bool {
        self.skip_blanks();
        let rest = self.0.strip_prefix(mark);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// RFC 9110 section 5.6.2.
    fn token(&mut self) -> Result<&'a str, Malformed> {
        self.skip_blanks();
        let end = self.0.bytes().position(|byte| !is_token(byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// A token, quoted or not.
    fn value(&mut self) -> Result<String, Malformed> {
        self.skip_blanks();
        let Some(quoted) = self.0.strip_prefix('"') else { return self.token().map(str::to_owned) };
        let mut value = String::new();
        let mut letters = quoted.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    // "the value after quoted-string unescaping MUST conform to the 'token' ABNF"
                    let is_token = !value.is_empty() && value.bytes().all(is_token);
                    return if is_token { Ok(value) } else { Err(Malformed) };
                }
                '\\' => value.push(letters.next().ok_or(Malformed)?.1),
                letter => value.push(letter),
            }
        }
        Err(Malformed)
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
