use super::*;

fn id(id: &str) -> ShortId {
    ShortId::new(id).unwrap()
}

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

fn document() -> Document {
    Document::new(id("e1"), Bounds { keys: 3, bytes: 1000 })
}

fn edit(key: &str, value: Option<&str>, operation: &str, condition: Condition) -> Edit {
    let channel = ChannelName::new("board").unwrap();
    Edit { channel, key: key.into(), value: value.map(json), id: id(operation), condition }
}

fn conflict(version: u64) -> Refusal {
    Refusal::Conflict(id("e1"), version)
}

#[test]
fn versions_never_come_again() {
    let mut document = document();
    assert_eq!(document.set("a", Some(json("1")), Some(0)).unwrap().version, 1);
    assert_eq!(document.set("a", None, Some(1)).unwrap().version, 2);
    assert_eq!(document.set("a", Some(json("1")), None).unwrap().version, 3);
    assert_eq!(document.set("a", Some(json("2")), Some(1)), Err(conflict(3)));
    assert_eq!(document.entry("a").unwrap().version, 3);
}

#[test]
fn conditions_hold_or_nothing_changes() {
    let mut document = document();
    let delta = document.apply(&edit("a", Some("1"), "o1", Condition::Absent)).unwrap().unwrap();
    assert_eq!((delta.version, delta.id, delta.digest), (1, Some(id("o1")), Digest::of("a", 1)));
    for condition in [
        Condition::Absent,
        Condition::Version(id("e1"), 2),
        Condition::Version(id("e0"), 1),
        Condition::After(id("o0")),
    ] {
        assert_eq!(document.apply(&edit("a", Some("2"), "o2", condition)), Err(conflict(1)));
    }
    assert_eq!(document.apply(&edit("b", Some("2"), "o2", Condition::Version(id("e1"), 1))), Err(conflict(1)));
    assert!(document.apply(&edit("a", Some("2"), "o3", Condition::After(id("o1")))).is_ok());
    assert!(document.apply(&edit("a", None, "o4", Condition::Version(id("e1"), 2))).is_ok());
    assert_eq!(document.apply(&edit("a", Some("3"), "o5", Condition::After(id("o3")))), Err(conflict(3)));
    assert!(document.apply(&edit("a", Some("3"), "o6", Condition::After(id("o4")))).is_ok(), "behind a deletion");
    assert!(document.apply(&edit("a", Some("4"), "o7", Condition::Always)).is_ok());
    assert_eq!(document.place().digest, Digest::of("a", 5));
}

#[test]
fn the_same_operation_is_applied_once() {
    let mut document = document();
    let first = edit("a", Some("1"), "o1", Condition::Absent);
    assert!(document.apply(&first).unwrap().is_some());
    assert_eq!(document.apply(&first), Ok(None));
    let gone = edit("a", None, "o2", Condition::After(id("o1")));
    assert!(document.apply(&gone).unwrap().is_some());
    assert_eq!(document.apply(&gone), Ok(None));
    assert_eq!(document.version(), 2);
}

#[test]
fn bounds_hold() {
    let mut document = document();
    for key in ["a", "b", "c"] {
        document.set(key, Some(json("1")), None).unwrap();
    }
    assert_eq!(document.set("d", Some(json("1")), None).unwrap_err().code(), TOO_BIG);
    let big = format!("\"{}\"", "x".repeat(900));
    assert_eq!(document.set("a", Some(json(&big)), None).unwrap_err().code(), TOO_BIG);
    assert_eq!((document.version(), document.bytes()), (3, 3 * (3 + 1 + ENTRY_COST)));
    document.set("a", None, None).unwrap();
    document.set("d", Some(json("\"\\u0000\"")), None).unwrap();
    assert!(document.snapshot().len() <= document.bytes());
    document.set_bounds(Bounds { keys: 1, bytes: 1 });
    document.set("d", Some(json("1")), None).expect("what makes it smaller is let in");
    assert_eq!(document.set("", None, None).unwrap_err().code(), MALFORMED);
    assert_eq!(document.set(&"k".repeat(256), None, None).unwrap_err().code(), MALFORMED);
}

#[test]
fn values_are_json_of_bounded_depth() {
    assert!(Json::new(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
    assert!(Json::new(&format!("{}{}", "[".repeat(65), "]".repeat(65))).unwrap_err().contains("64"));
    assert!(Json::new(r#""[[[[\"[[[""#).is_ok());
    for text in ["", "1 2", "{", "nul", "'a'"] {
        assert!(Json::new(text).is_err(), "{text}");
    }
    assert_eq!(json(" 1.50 ").as_str(), "1.50");
}

#[test]
fn edits_are_read_strictly() {
    let read = |text: &str| Edit::decode(text.as_bytes());
    let null = read(r#"{"ch":"board","k":"a","v":null,"id":"o1","if":0}"#).unwrap();
    assert_eq!((null.value.clone(), &null.condition), (Some(json("null")), &Condition::Absent));
    assert_eq!(Edit::decode(&null.encode()), Ok(null));
    assert_eq!(read(r#"{"ch":"board","k":"a","id":"o1"}"#).unwrap().value, None);
    for text in [
        r#"{"ch":"board","k":"","id":"o1"}"#,
        r#"{"ch":"","k":"a","id":"o1"}"#,
        r#"{"ch":"board","k":"a"}"#,
        r#"{"ch":"board","k":"a","id":"o1","if":1}"#,
        r#"{"ch":"board","k":"a","id":"o1","if":0,"after":"o0"}"#,
        r#"{"ch":"board","k":"a","id":"o1","if":-1}"#,
        "[]",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn an_answer_has_a_snapshot_where_the_states_differ() {
    let mut document = document();
    document.set("a", Some(json("[1, 2]")), None).unwrap();
    let place = document.place();
    assert_eq!(document.answer(&place), (place.clone(), Bytes::new()));
    let (_, snapshot) = document.answer(&Place { digest: Digest(7), ..place.clone() });
    assert_eq!(&*snapshot, br#"{"a":[1,[1, 2]]}"#);
    assert_eq!(decode_snapshot(&snapshot).unwrap()["a"], (1, json("[1, 2]")));
    assert_eq!(place.digest, Digest::sum([("a", 1)]));
    assert_eq!("0000002a".parse(), Ok(Digest(42)));
    assert!("2A".parse::<Digest>().is_err() && "0000002A".parse::<Digest>().is_err());
}
