use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proptest::prelude::*;

use super::negotiate::{Malformed, accept, conclude, offer};
use super::*;

fn config(context_takeover: bool, window_bits: u8) -> DeflateConfig {
    DeflateConfig { context_takeover, window_bits, ..DeflateConfig::default() }
}

fn response(offer: &str, config: &DeflateConfig) -> Option<String> {
    accept([offer.as_bytes()], config).unwrap().map(|agreement| agreement.response())
}

#[test]
fn the_server_answers_what_it_can_carry_out() {
    const NONE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let spare = config(false, 15);
    let full = config(true, 15);
    let small = config(true, 10);
    for (given, offered, answer) in [
        (&spare, "permessage-deflate", Some(NONE)),
        (&spare, " permessage-deflate ;client_max_window_bits", Some(NONE)),
        (&full, "permessage-deflate", Some("permessage-deflate")),
        (&full, "permessage-deflate; client_max_window_bits", Some("permessage-deflate")),
        (
            &full,
            "permessage-deflate; server_no_context_takeover",
            Some("permessage-deflate; server_no_context_takeover"),
        ),
        (
            &full,
            "permessage-deflate; client_no_context_takeover",
            Some("permessage-deflate; client_no_context_takeover"),
        ),
        // Section 7.1.2.1: it is accepted by being named.
        (&full, "permessage-deflate; server_max_window_bits=15", Some("permessage-deflate; server_max_window_bits=15")),
        (
            &full,
            "permessage-deflate; server_max_window_bits=\"9\"",
            Some("permessage-deflate; server_max_window_bits=9"),
        ),
        (&full, "permessage-deflate; client_max_window_bits=8", Some("permessage-deflate; client_max_window_bits=8")),
        (&full, "permessage-deflate; client_max_window_bits=12", Some("permessage-deflate; client_max_window_bits=12")),
        (&small, "permessage-deflate", Some("permessage-deflate; server_max_window_bits=10")),
        (
            &small,
            "permessage-deflate; client_max_window_bits; server_max_window_bits=12",
            Some("permessage-deflate; server_max_window_bits=10; client_max_window_bits=10"),
        ),
        (
            &small,
            "permessage-deflate; client_max_window_bits=9; server_max_window_bits=9",
            Some("permessage-deflate; server_max_window_bits=9; client_max_window_bits=9"),
        ),
        // Raw zlib has no window of 256 bytes.
        (&full, "permessage-deflate; server_max_window_bits=8", None),
        // The first that can be done counts; others are none of our business.
        (
            &full,
            "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=8, permessage-deflate; \
             server_max_window_bits=11, permessage-deflate",
            Some("permessage-deflate; server_max_window_bits=11"),
        ),
        (&full, "permessage-bzip2; a=\"b\\c\"; d", None),
        (&full, "", None),
        (&full, ",, permessage-deflate ,", Some("permessage-deflate")),
        (&full, "permessage-deflate; server_max_window_bits", None),
        (&full, "permessage-deflate; server_max_window_bits=16", None),
        (&full, "permessage-deflate; server_max_window_bits=7", None),
        (&full, "permessage-deflate; server_max_window_bits=010", None),
        (&full, "permessage-deflate; server_max_window_bits=1x", None),
        (&full, "permessage-deflate; client_max_window_bits=0", None),
        (&full, "permessage-deflate; server_no_context_takeover=1", None),
        (&full, "permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        (&full, "permessage-deflate; client_max_window_bits; client_max_window_bits=10", None),
        (&full, "permessage-deflate; unknown", None),
        (&full, "permessage-deflate; Server_No_Context_Takeover", None),
    ] {
        assert_eq!(response(offered, given).as_deref(), answer, "{offered} with {given:?}");
    }
}

#[test]
fn several_lines_are_one_list() {
    let lines: [&[u8]; 2] = [b"permessage-deflate; server_max_window_bits=8", b"permessage-deflate"];
    let agreement = accept(lines, &config(true, 15)).unwrap().unwrap();
    assert_eq!(agreement.response(), "permessage-deflate");
    assert_eq!(
        agreement.without_takeover().response(),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    );
}

#[test]
fn what_is_not_a_list_of_extensions_fails_the_handshake() {
    for line in [
        "permessage-deflate;",
        "permessage-deflate; =1",
        "permessage-deflate; a=",
        "permessage-deflate; a=\"",
        "permessage-deflate; a=\"b",
        "permessage-deflate; a=\"b\\",
        "permessage-deflate; a=\"\"",
        "permessage-deflate; a=\"b c\"",
        "permessage-deflate b",
        "permessage-deflate; a=b=c",
        "; a",
        "(x)",
        "permessage-deflate, \"x\"",
        "permessage-d\u{e9}flate",
    ] {
        assert_eq!(accept([line.as_bytes()], &config(true, 15)), Err(Malformed), "{line}");
    }
    assert_eq!(accept([&b"\xFF"[..]], &config(true, 15)), Err(Malformed));
}

#[test]
fn the_client_offers_what_is_configured() {
    assert_eq!(
        offer(&config(false, 15)),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits"
    );
    assert_eq!(offer(&config(true, 15)), "permessage-deflate; client_max_window_bits");
    assert_eq!(offer(&config(true, 9)), "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9");
}

#[test]
fn the_client_takes_no_answer_that_it_has_not_asked_for() {
    let side = |takeover, window_bits| Side { takeover, window_bits };
    let conclude = |line: &str, config| {
        conclude([line.as_bytes()], config).map(|agreement| agreement.map(|both| (both.server, both.client)))
    };
    let spare = config(false, 15);
    let full = config(true, 15);
    let small = config(true, 10);
    for (given, line, server, client) in [
        (&full, "permessage-deflate", side(true, 15), side(true, 15)),
        (&full, "permessage-deflate; server_no_context_takeover", side(false, 15), side(true, 15)),
        (&full, "permessage-deflate; client_no_context_takeover", side(true, 15), side(false, 15)),
        (&full, "permessage-deflate; server_max_window_bits=8", side(true, 8), side(true, 15)),
        (&full, "permessage-deflate; client_max_window_bits=9", side(true, 15), side(true, 9)),
        (&full, "permessage-deflate; client_max_window_bits=8", side(true, 15), side(true, 8)),
        (&small, "permessage-deflate; server_max_window_bits=10", side(true, 10), side(true, 10)),
        (
            &small,
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=15",
            side(true, 9),
            side(true, 10),
        ),
        (&spare, "permessage-deflate; server_no_context_takeover", side(false, 15), side(false, 15)),
    ] {
        assert_eq!(conclude(line, given), Ok(Some((server, client))), "{line}");
    }
    assert!(!side(true, 8).can_compress(), "then what it sends is not compressed");
    assert_eq!(conclude(" , ", &full), Ok(None), "declined");
    for (given, line, problem) in [
        (&full, "permessage-bzip2", "permessage-bzip2 was not offered"),
        (&full, "permessage-deflate, permessage-deflate", "permessage-deflate is there more than once"),
        (&full, "permessage-deflate; x", "it has the unknown parameter \"x\""),
        (
            &full,
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "server_no_context_takeover is there more than once",
        ),
        (
            &full,
            "permessage-deflate; server_max_window_bits=12; server_max_window_bits=12",
            "server_max_window_bits is there more than once",
        ),
        (
            &full,
            "permessage-deflate; client_no_context_takeover=yes",
            "client_no_context_takeover takes no value and has \"yes\"",
        ),
        (&full, "permessage-deflate; client_max_window_bits", "client_max_window_bits has no value"),
        (
            &full,
            "permessage-deflate; server_max_window_bits=17",
            "server_max_window_bits is \"17\", allowed are 8 to 15",
        ),
        (&small, "permessage-deflate", "server_max_window_bits was asked for and is missing"),
        (
            &small,
            "permessage-deflate; server_max_window_bits=11",
            "server_max_window_bits=11 is more than the 10 offered",
        ),
        (&spare, "permessage-deflate", "server_no_context_takeover was asked for and is missing"),
        (&full, "permessage-deflate;", "it is malformed"),
    ] {
        assert_eq!(conclude(line, given), Err(problem.to_owned()), "{line}");
    }
}

proptest! {
    #[test]
    fn both_ends_agree_on_the_same(ours in any::<bool>(), theirs in any::<bool>(), mine in 9u8..=15, yours in 9u8..=15) {
        let (server, client) = (config(ours, mine), config(theirs, yours));
        let agreed = accept([offer(&client).as_bytes()], &server).unwrap().unwrap();
        let concluded = conclude([agreed.response().as_bytes()], &client).unwrap().unwrap();
        prop_assert_eq!(concluded.server, agreed.server);
        // The server can read more than the client sends.
        prop_assert!(concluded.client.window_bits <= agreed.client.window_bits);
        prop_assert!(agreed.client.takeover || !concluded.client.takeover);
        prop_assert!(concluded.server.window_bits <= mine.min(yours));
    }

    #[test]
    fn any_header_is_read_without_a_panic(line in "[ -~]{0,80}|permessage-deflate(; ?[a-z_]{1,9}=?\"?[0-9]{0,2}\"?){0,4}") {
        let _ = accept([line.as_bytes()], &DeflateConfig::default());
        let _ = conclude([line.as_bytes()], &DeflateConfig::default());
    }
}

/// Inflates a message in pieces of `step` bytes.
fn inflate(
    inflater: &mut Inflater,
    wire: &[u8],
    step: usize,
    takeover: bool,
    most: usize,
) -> Result<Vec<u8>, InflateError> {
    let mut buffer = Vec::new();
    let mut output = Output { buffer: &mut buffer, most };
    for piece in wire.chunks(step) {
        inflater.push(piece, &mut output)?;
    }
    inflater.finish(takeover, &mut output)?;
    assert!(buffer.len() <= most && buffer.capacity() <= most.max(CHUNK), "{} of {most}", buffer.capacity());
    Ok(buffer)
}

/// The greatest room that is made for a message which is still short.
const CHUNK: usize = 64 * 1024;
const PLENTY: usize = 1 << 20;

fn deflate(deflater: &mut Deflater, payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    deflater.compress(&[payload], &mut wire);
    wire
}

/// The examples of RFC 7692 section 7.2.3, without their frame headers.
#[test]
fn the_examples_of_the_rfc() {
    for step in [1, 2, 100] {
        // 7.2.3.1: one block; 7.2.3.2: the same message again, with the window kept.
        let mut inflater = Inflater::new();
        let first = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        assert_eq!(inflate(&mut inflater, &first, step, true, PLENTY).unwrap(), b"Hello");
        let second = [0xF2, 0x00, 0x11, 0x00, 0x00];
        assert_eq!(inflate(&mut inflater, &second, step, true, PLENTY).unwrap(), b"Hello");
        // 7.2.3.3: a block without compression; 7.2.3.4: one that is marked as the last; 7.2.3.5: two blocks.
        for wire in [
            &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00][..],
            &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
            &[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00],
        ] {
            for takeover in [false, true] {
                let mut inflater = Inflater::new();
                for _ in 0..3 {
                    assert_eq!(inflate(&mut inflater, wire, step, takeover, PLENTY).unwrap(), b"Hello", "{wire:?}");
                }
            }
        }
        // 7.2.3.6: an empty message.
        assert_eq!(inflate(&mut Inflater::new(), &[0x00], step, false, PLENTY).unwrap(), b"");
    }
    let mut deflater = Deflater::new(6, 15);
    assert_eq!(deflate(&mut deflater, b"Hello"), [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]);
    assert_eq!(deflate(&mut deflater, b"Hello"), [0xF2, 0x00, 0x11, 0x00, 0x00]);
    assert_eq!(deflate(&mut deflater, b""), [0x00]);
}

#[test]
fn a_block_marked_as_the_last_may_be_the_end() {
    for takeover in [false, true] {
        let mut inflater = Inflater::new();
        for _ in 0..2 {
            let wire = [0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
            assert_eq!(inflate(&mut inflater, &wire, 3, takeover, PLENTY).unwrap(), b"Hello");
        }
    }
}

#[test]
fn what_is_not_a_whole_message_is_refused() {
    let whole = deflate(&mut Deflater::new(6, 15), &b"a message of some length, of some length".repeat(9));
    for takeover in [false, true] {
        for cut in 1..whole.len() - 1 {
            let got = inflate(&mut Inflater::new(), &whole[..cut], 7, takeover, PLENTY);
            assert!(got.is_err() || takeover, "{cut} of {}: {got:?}", whole.len());
        }
        // A reserved kind of block; a length that does not fit its complement; a distance beyond the start.
        for wire in [&[0x07][..], &[0x00, 0x05, 0x00, 0xFF, 0xFF], &[0x02, 0x07, 0xFF, 0x00]] {
            assert_eq!(
                inflate(&mut Inflater::new(), wire, 1, takeover, PLENTY),
                Err(InflateError::Invalid),
                "{wire:?}"
            );
        }
        // Garbage behind the end.
        let mut wire = whole.clone();
        wire.extend_from_slice(b"\x07garbage");
        assert_eq!(inflate(&mut Inflater::new(), &wire, 100, takeover, PLENTY), Err(InflateError::Invalid));
    }
}

#[test]
fn output_is_bounded_while_it_comes() {
    let zeros = vec![0; 64 << 20];
    let wire = deflate(&mut Deflater::new(9, 15), &zeros);
    assert!(wire.len() < 70_000, "{}", wire.len());
    for (step, most) in
        [(wire.len(), 1 << 20), (1, 1 << 20), (100, 1), (100, 0), (7, (1 << 20) + 1), (1000, zeros.len() - 1)]
    {
        let mut inflater = Inflater::new();
        let mut buffer = Vec::new();
        let mut output = Output { buffer: &mut buffer, most };
        let failed = wire.chunks(step).find_map(|piece| inflater.push(piece, &mut output).err());
        assert_eq!(failed, Some(InflateError::TooBig), "{most}");
        assert_eq!(buffer.len(), most);
        assert_eq!(buffer.capacity(), most, "not a byte more");
    }
    let exactly = inflate(&mut Inflater::new(), &wire, 5000, false, zeros.len()).unwrap();
    assert_eq!(exactly.len(), zeros.len());
}

/// Text that compresses, noise that does not, and runs.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3000),
        "[a-e ]{0,2000}".prop_map(String::into_bytes),
        (any::<u8>(), 0usize..100_000).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

/// What zlib makes of messages at once.
struct Naive {
    compress: Compress,
    decompress: Decompress,
}

impl Naive {
    fn new(window_bits: u8) -> Self {
        Self {
            compress: Compress::new_with_window_bits(Compression::new(6), false, window_bits),
            decompress: Decompress::new_with_window_bits(false, window_bits),
        }
    }

    fn compress(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::with_capacity(payload.len() * 2 + 1000);
        self.compress.compress_vec(payload, &mut wire, FlushCompress::Sync).unwrap();
        if payload.is_empty() { vec![0] } else { wire[..wire.len() - 4].to_vec() }
    }

    fn decompress(&mut self, wire: &[u8], length: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(length + 1000);
        let whole = [wire, &[0, 0, 0xFF, 0xFF]].concat();
        self.decompress.decompress_vec(&whole, &mut payload, FlushDecompress::Sync).unwrap();
        payload
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn messages_survive_under_any_chunking(
        messages in prop::collection::vec(payload(), 1..6),
        step in 1usize..3000,
        level in 1u8..=9,
        window_bits in 9u8..=15,
        takeover in any::<bool>(),
        cut in 0usize..2000,
    ) {
        let (mut deflater, mut inflater) = (Deflater::new(level, window_bits), Inflater::new());
        let (mut ours, mut theirs) = (Naive::new(window_bits), Naive::new(window_bits));
        for message in &messages {
            let mut wire = Vec::new();
            let (head, tail) = message.split_at(cut.min(message.len()));
            deflater.compress(&[head, tail], &mut wire);
            prop_assert_eq!(&inflate(&mut inflater, &wire, step, takeover, PLENTY).unwrap(), message);
            // Also with a window that is no larger than what was agreed on.
            prop_assert_eq!(&theirs.decompress(&wire, message.len()), message);
            if !takeover {
                deflater.reset();
                theirs.decompress.reset(false);
            }
        }
        inflater.reset();
        for message in &messages {
            let wire = ours.compress(message);
            prop_assert_eq!(&inflate(&mut inflater, &wire, step, takeover, PLENTY).unwrap(), message);
            if !takeover {
                ours.compress.reset();
            }
        }
    }

    #[test]
    fn any_input_ends_within_its_bound(wire in prop::collection::vec(any::<u8>(), 1..2000), step in 1usize..50, most in 0usize..5000) {
        for takeover in [false, true] {
            let got = inflate(&mut Inflater::new(), &wire, step, takeover, most);
            let whole = inflate(&mut Inflater::new(), &wire, usize::MAX, takeover, most);
            prop_assert_eq!(got, whole, "chunking does not matter");
        }
    }
}

#[test]
fn a_threads_compressor_knows_nothing_of_the_last_message() {
    let message = b"the same words, the same words";
    let once = |bits| {
        let mut wire = Vec::new();
        with_deflater(6, bits, |deflater| deflater.compress(&[message], &mut wire));
        wire
    };
    let first = once(15);
    for bits in [15, 9, 10, 11, 12, 13, 15, 9] {
        assert_eq!(inflate(&mut Inflater::new(), &once(bits), 9, false, PLENTY).unwrap(), message);
    }
    assert_eq!(once(15), first);
}
