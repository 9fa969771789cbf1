//! UTF-8 validation of a stream in pieces.

/// The bytes are not UTF-8 and no continuation can make them so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid UTF-8")]
pub struct InvalidUtf8;

/// Validates text that arrives in pieces. A violation is reported with the piece that holds the first
/// offending byte, also when that byte only makes an earlier, unfinished sequence impossible.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Stream {
    /// The start of a sequence whose rest has not arrived: a valid prefix, at most 3 bytes.
    carry: [u8; 4],
    carried: u8,
}

impl Utf8Stream {
    /// Takes the next piece.
    ///
    /// # Errors
    /// [`InvalidUtf8`]; call [`Utf8Stream::reset`] before using it again.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), InvalidUtf8> {
        while self.carried > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            self.carry[usize::from(self.carried)] = byte;
            self.carried += 1;
            match std::str::from_utf8(&self.carry[..usize::from(self.carried)]) {
                Ok(_) => self.carried = 0,
                // A valid prefix has at most 3 bytes, so `carry` is never overrun.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(InvalidUtf8),
            }
        }
        let Err(error) = simdutf8::compat::from_utf8(piece) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(InvalidUtf8);
        }
        let tail = &piece[error.valid_up_to()..];
        self.carry[..tail.len()].copy_from_slice(tail);
        self.carried = tail.len() as u8;
        Ok(())
    }

    /// The text ends here; the next piece starts a new one.
    ///
    /// # Errors
    /// [`InvalidUtf8`] when it ends inside a sequence.
    pub fn finish(&mut self) -> Result<(), InvalidUtf8> {
        let complete = self.carried == 0;
        self.reset();
        if complete { Ok(()) } else { Err(InvalidUtf8) }
    }

    /// Forgets what has been seen.
    pub fn reset(&mut self) {
        self.carried = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The index of the first byte after which no continuation is valid.
    fn offending(bytes: &[u8]) -> Option<usize> {
        (0..bytes.len())
            .find(|&i| matches!(std::str::from_utf8(&bytes[..=i]), Err(error) if error.error_len().is_some()))
    }

    /// Bytes that are UTF-8 more often than chance would have it.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        let atom = prop_oneof![
            4 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            4 => "[a-z]{1,80}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 1..3),
            1 => prop::sample::select(vec![
                vec![0xE0, 0x80],
                vec![0xED, 0xA0],
                vec![0xF4, 0x90],
                vec![0xF0, 0x80],
                vec![0xF0, 0x9F, 0x98],
                vec![0xC0],
                vec![0xC2],
                vec![0xF5],
            ]),
        ];
        prop::collection::vec(atom, 0..8).prop_map(|atoms| atoms.concat())
    }

    proptest! {
        #[test]
        fn agrees_with_std_and_fails_at_the_offending_byte(bytes in nearly_text()) {
            let mut stream = Utf8Stream::default();
            let failed = bytes.iter().position(|byte| stream.push(std::slice::from_ref(byte)).is_err());
            prop_assert_eq!(failed, offending(&bytes));
            if failed.is_none() {
                prop_assert_eq!(stream.finish().is_ok(), std::str::from_utf8(&bytes).is_ok());
            }
        }

        #[test]
        fn pieces_do_not_matter(bytes in nearly_text(), cuts in prop::collection::vec(1usize..70, 1..20)) {
            let mut stream = Utf8Stream::default();
            let (mut at, mut cuts) = (0, cuts.iter().cycle());
            let mut failed = None;
            while at < bytes.len() && failed.is_none() {
                let end = (at + cuts.next().copied().unwrap_or(1)).min(bytes.len());
                if stream.push(&bytes[at..end]).is_err() {
                    failed = Some(at..end);
                }
                at = end;
            }
            match (failed, offending(&bytes)) {
                (Some(piece), Some(byte)) => prop_assert!(piece.contains(&byte)),
                (None, None) => {
                    prop_assert_eq!(stream.finish().is_ok(), std::str::from_utf8(&bytes).is_ok());
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn is_fresh_after_finish() {
        let mut stream = Utf8Stream::default();
        stream.push(&[0xE2, 0x82]).unwrap();
        assert_eq!(stream.finish(), Err(InvalidUtf8));
        stream.push(b"a").unwrap();
        assert_eq!(stream.finish(), Ok(()));
    }
}
