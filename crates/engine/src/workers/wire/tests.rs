use super::*;
use crate::bridge::{ConnId, Sent, Stat, Stats};

fn frames(bytes: &[u8]) -> Result<Vec<Bytes>, WireError> {
    let mut reader = Reader::default();
    let mut frames = Vec::new();
    // However it arrives.
    for piece in bytes.chunks(3) {
        reader.buffer.extend_from_slice(piece);
        while let Some(frame) = reader.next_frame()? {
            frames.push(frame);
        }
    }
    assert!(reader.buffer.is_empty());
    Ok(frames)
}

#[test]
fn messages_of_a_frame_come_back_in_order() {
    let mut writer = Writer::default();
    let send = |number: u64| {
        let data = Bytes::from(vec![number as u8; number as usize]);
        ToGateway::Command(Command::Send { conn: ConnId(number), data, binary: number % 2 == 1 })
    };
    for number in 0..5 {
        writer.add(&send(number)).unwrap();
    }
    writer.end_frame();
    writer.add(&ToGateway::Beat(7)).unwrap();
    writer.end_frame();
    let frames = frames(&writer.take()).unwrap();
    assert_eq!(frames.len(), 2);
    let mut seen = Vec::new();
    read_messages(&frames[0], "test", |message: ToGateway| {
        seen.push(format!("{message:?}"));
        true
    })
    .unwrap();
    assert_eq!(seen, (0..5).map(|number| format!("{:?}", send(number))).collect::<Vec<_>>());
}

#[test]
fn what_does_not_travel_is_refused_and_changes_nothing() {
    let mut writer = Writer::default();
    writer.add(&ToWorker::Beat(1)).unwrap();
    let before = writer.frame_len();
    assert!(writer.add(&ToWorker::Event(Event::Nudge)).is_err());
    assert_eq!(writer.frame_len(), before);
    let mut writer = Writer::default();
    assert!(writer.add(&ToWorker::Event(Event::Nudge)).is_err());
    writer.end_frame();
    assert!(writer.is_empty());
}

#[test]
fn replies_and_errors_travel() {
    let mut writer = Writer::default();
    let stats = Stats(vec![("list".into(), Stat::List(vec![Stat::Int(-1), Stat::Float(0.5), Stat::None]))]);
    for reply in [
        Ok(Reply::Stats(stats)),
        Ok(Reply::Sent(Sent::Dropped)),
        Err(CommandError::Gone("the server".into())),
        Err(CommandError::Limit("limits.maxChannels".into())),
    ] {
        let text = format!("{reply:?}");
        writer.add(&ToWorker::Answer(9, reply)).unwrap();
        let frame = frames(&writer.take()).unwrap().remove(0);
        read_messages(&frame, "test", |message: ToWorker| {
            assert!(matches!(&message, ToWorker::Answer(9, reply) if format!("{reply:?}") == text), "{message:?}");
            true
        })
        .unwrap();
    }
}

#[test]
fn a_length_that_no_frame_has_is_an_error() {
    for length in [0, MAX_FRAME as u32 + 1, u32::MAX] {
        let mut reader = Reader::default();
        reader.buffer.extend_from_slice(&length.to_le_bytes());
        let length = length as usize;
        assert_eq!(reader.next_frame(), Err(WireError::Length { length, limit: MAX_FRAME }));
    }
}

#[test]
fn a_strangers_first_frame_is_short() {
    let mut reader = Reader::of_stranger();
    reader.buffer.extend_from_slice(&70_000_u32.to_le_bytes());
    assert_eq!(reader.next_frame(), Err(WireError::Length { length: 70_000, limit: MAX_GREETING }));
    let mut reader = Reader::of_stranger();
    reader.buffer.extend_from_slice(&[1, 0, 0, 0, b'x']);
    assert!(reader.next_frame().unwrap().is_some());
    reader.buffer.extend_from_slice(&70_000_u32.to_le_bytes());
    assert_eq!(reader.next_frame(), Ok(None));
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_panic() {
    let mut writer = Writer::default();
    writer.add(&ToGateway::Question(1, Command::Describe { conns: vec![ConnId(1), ConnId(2)] })).unwrap();
    let whole = frames(&writer.take()).unwrap().remove(0);
    for cut in 1..whole.len() {
        let result = read_messages(&whole[..cut], "test", |_: ToGateway| true);
        assert!(matches!(result, Err(WireError::Malformed { .. })), "{cut}: {result:?}");
    }
    for byte in 0..=255 {
        let mut broken = whole.to_vec();
        broken[0] = byte;
        // It is read or it is not.
        let _ = read_messages(&broken, "test", |_: ToGateway| true);
        // A list that says it is longer than everything.
        let huge = [[byte].as_slice(), &[0xFF; 12]].concat();
        let _ = read_messages(&huge, "test", |_: ToGateway| true);
    }
}

#[test]
fn a_greeting_says_who_speaks() {
    let hello = Greeting::Hello { questions: Questions { authorise: true, ..Questions::default() } };
    let mut writer = Writer::default();
    greet(&mut writer, &hello);
    let frame = frames(&writer.take()).unwrap().remove(0);
    assert_eq!(read_greeting(&frame), Ok(hello));
    assert_eq!(read_greeting(b"GET / HTTP/1.1"), Err(WireError::Stranger));
    let version = MAGIC.len();
    let mut other = frame.to_vec();
    other[version] = 9;
    assert_eq!(read_greeting(&other), Err(WireError::Version { theirs: 9 }));
    let mut other = frame.to_vec();
    other[version + 3] = b'x';
    assert!(matches!(read_greeting(&other), Err(WireError::Build(build)) if build.starts_with('x')));
    for cut in 0..frame.len() {
        assert!(read_greeting(&frame[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn long_frames_are_sent_in_parts() {
    let mut writer = Writer::default();
    let mut sent = Vec::new();
    for number in 0..100 {
        let data = Bytes::from(vec![number; 1000]);
        writer.add(&ToGateway::Command(Command::Send { conn: ConnId(1), data, binary: true })).unwrap();
        if number % 10 == 9 {
            writer.end_frame();
            let part = writer.bytes().len() / 3;
            sent.extend_from_slice(&writer.bytes()[..part]);
            writer.advance(part);
        }
    }
    sent.extend(writer.take());
    assert_eq!(frames(&sent).unwrap().len(), 10);
}
