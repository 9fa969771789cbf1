//! Text of peers on its way to where people read it: logs and messages of exceptions.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Bytes of a log record's message, of each value of its context, and of an exception's message.
pub const MAX_TEXT: usize = 4096;

/// The text on one line, without what commands a terminal (C0, DEL, C1) or shows otherwise than it stands
/// (line separators, bidirectional controls): those as `\n`, `\r`, `\t` or `\u{1b}`. What would be longer than
/// [`MAX_TEXT`] ends with `…` before it.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT && !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().min(MAX_TEXT) + 16);
    // Up to where the end mark would still have room.
    let mut fits = 0;
    for char in text.chars() {
        if out.len() + '…'.len_utf8() <= MAX_TEXT {
            fits = out.len();
        }
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            hidden if is_hidden(hidden) => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(hidden));
            }
            char => out.push(char),
        }
        if out.len() > MAX_TEXT {
            out.truncate(fits);
            out.push('…');
            break;
        }
    }
    Cow::Owned(out)
}

fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printable_stays_and_the_rest_is_shown() {
        assert!(matches!(printable("42 Grüße, 中文 \u{1f600}"), Cow::Borrowed(_)));
        assert_eq!(printable("a\r\nb\tc\0\x1b[31m\u{9b}\u{7f}"), "a\\r\\nb\\tc\\u{0}\\u{1b}[31m\\u{9b}\\u{7f}");
        assert_eq!(printable("a\u{2028}b\u{202e}c"), "a\\u{2028}b\\u{202e}c");
    }

    #[test]
    fn no_text_is_longer_than_the_limit() {
        let short = "x".repeat(MAX_TEXT);
        assert_eq!(printable(&short), short);
        for text in ["x".repeat(MAX_TEXT + 1), "\u{1f600}".repeat(MAX_TEXT), "\0".repeat(MAX_TEXT)] {
            let shown = printable(&text);
            assert!((MAX_TEXT - 16..=MAX_TEXT).contains(&shown.len()) && shown.ends_with('…'), "{}", shown.len());
        }
        let full = format!("\n{}", "x".repeat(MAX_TEXT - 2));
        assert_eq!(printable(&full).len(), MAX_TEXT);
        assert!(printable(&full).ends_with('x'), "all of it has room");
    }
}
