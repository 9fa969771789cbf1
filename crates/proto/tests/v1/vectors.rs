//! The vectors in `tests/vectors/` and the transcripts in `docs/protocol.md` are what these machines do.
//!
//! A dialogue is a list of steps. `do` is something that happens at an end or to the link; what follows
//! from it is recorded behind it: frames in their order, what the applications are told, close codes.
//! `UPDATE_VECTORS=1` writes the consequences anew, into the vectors and into the document.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use lifeline_proto::v1::document::replica::Policy;
use lifeline_proto::v1::document::{Bounds, Delta, Digest, Edit, decode_snapshot};
use lifeline_proto::v1::ring::Retention;
use lifeline_proto::v1::server::{ServerConfig, Write};
use lifeline_proto::v1::wire::{ClientFrame, ServerFrame};
use serde_json::{Value, json};

use super::world::{DOCUMENT as DOCUMENT_CHANNEL, World, channel};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn write(path: &str, text: &str) {
    fs::write(root().join(path), text).unwrap();
}

/// One file's dialogues or frames, in order.
fn vectors(path: &str) -> Vec<Value> {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn play(dialogue: &Value) -> Vec<Value> {
    let number = |key: &str, default: u64| dialogue["server"][key].as_u64().unwrap_or(default);
    let mut world = World::new(
        ServerConfig {
            authorise: true,
            snapshots: dialogue["server"]["snapshots"] == true,
            retention: Retention { count: number("count", 1000) as usize, ..Retention::default() },
            redelivery_limit: number("redeliveryLimit", 5) as u32,
            ..ServerConfig::default()
        },
        1,
    );
    let mut steps = Vec::new();
    for step in dialogue["steps"].as_array().unwrap().iter().filter(|step| step["do"].is_string()) {
        steps.push(step.clone());
        act(&mut world, step);
        // So many frames move before the link is cut.
        let frames = step["frames"].as_u64();
        let mut moved = 0;
        loop {
            let lost = frames == Some(moved);
            if world.peers[0].to_server.is_empty() && world.peers[0].to_client.is_empty() && !world.write(0) {
                break;
            }
            let from = world.journal.len();
            let _ =
                if world.peers[0].to_server.is_empty() { arrive(&mut world, lost) } else { depart(&mut world, lost) };
            steps.append(&mut world.journal.split_off(from));
            moved += 1;
            if lost {
                steps.push(json!({"cut": true}));
                world.cut(0);
                world.journal.clear();
                break;
            }
        }
        // What no frame carried: it happened before or without one.
        let at = steps.iter().rposition(|kept| kept == step).unwrap() + 1;
        let rest = std::mem::take(&mut world.journal);
        steps.splice(at..at, rest);
    }
    steps
}

fn arrive(world: &mut World, lost: bool) -> bool {
    if lost {
        let frame = world.peers[0].to_client.pop_front().unwrap();
        world.journal.push(json!({"server": String::from_utf8_lossy(&frame.data), "lost": true}));
        return true;
    }
    world.arrive_at_client(0)
}

fn depart(world: &mut World, lost: bool) -> bool {
    if lost {
        let frame = world.peers[0].to_server.pop_front().unwrap();
        world.journal.push(json!({"client": String::from_utf8_lossy(&frame.data), "lost": true}));
        return true;
    }
    world.arrive_at_server(0)
}

fn act(world: &mut World, step: &Value) {
    let text = |key: &str| step[key].as_str().unwrap_or_else(|| panic!("{step}: {key} is missing"));
    let number = |key: &str| step[key].as_u64().unwrap_or_else(|| panic!("{step}: {key} is missing"));
    match text("do") {
        "connect" => world.connect(0),
        "cut" => world.cut(0),
        "cut, unseen by the server" => world.half_cut(0),
        "send" => drop(world.client_send(0, text("data"))),
        "expire" => {
            // The item that was sent last, before it went out.
            let sequence = world.peers[0].outbox.last_sequence();
            world.peers[0].outbox.handle_rejected(sequence).unwrap();
        }
        "server sends" => drop(world.server_send(0, text("data"))),
        "publish" => world.publish(text("channel"), text("data")),
        "subscribe" => world.subscribe(0, text("channel")),
        "unsubscribe" => world.unsubscribe(0, text("channel")),
        "server subscribes" => world.server_subscribe(0, text("channel")),
        "deny" => drop(world.denied.insert(channel(text("channel")))),
        "state" => drop(world.states.insert(channel(text("channel")), Bytes::copy_from_slice(text("data").as_bytes()))),
        "server begins" => assert!(world.begin()),
        "server handles" => {
            world.begin();
            world.finish().unwrap();
            world.server.handle_batch_end();
            world.settle();
        }
        "server handler fails" => {
            world.begin();
            world.fail().unwrap();
        }
        "server rejects" => {
            world.begin();
            world.reject(step["permanent"] == true).unwrap();
        }
        "client handles" => {
            world.take_events(0);
            world.peers[0].client.handle_batch_end();
            world.settle();
        }
        "open document" => {
            let write = if step["write"] == false { Write::Nobody } else { Write::Subscribers };
            assert!(world.server.open_document(&channel(DOCUMENT_CHANNEL), Bounds::default(), write));
            world.settle();
        }
        "document" => world.follow(
            0,
            match step["conflict"].as_str() {
                Some("clientWins") => Policy::ClientWins,
                Some("both") => Policy::Ask,
                _ => Policy::ServerWins,
            },
        ),
        "edit" => drop(world.edit(0, text("key"), Some(&step["value"].to_string()))),
        "delete" => drop(world.edit(0, text("key"), None)),
        "server sets" => world.server_edit(text("key"), Some(&step["value"].to_string())),
        "server deletes" => world.server_edit(text("key"), None),
        "sleep" => world.sleep(Duration::from_secs(number("seconds"))),
        "restart server" => {
            let stored = (step["stored"] == true).then(|| world.server.stored());
            world.restart_server(stored);
        }
        "drain" => {
            world.server.drain(world.now, Duration::from_secs(number("seconds")));
            world.settle();
        }
        "server beats" => {
            world.server.beat(world.peers[0].link.unwrap(), number("n"));
            world.settle();
        }
        "client beats" => {
            world.peers[0].client.beat(number("n"));
            world.settle();
        }
        other => panic!("unknown: do {other}"),
    }
}

/// As the document shows it.
fn transcript(dialogue: &Value) -> String {
    let mut text = String::new();
    for step in dialogue["steps"].as_array().unwrap() {
        let lost = if step["lost"] == true { "   (lost)" } else { "" };
        let line = |value: &Value| value.as_str().unwrap().replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = if step["client"].is_string() {
            writeln!(text, "C: {}{lost}", line(&step["client"]))
        } else if step["server"].is_string() {
            writeln!(text, "S: {}{lost}", line(&step["server"]))
        } else if step["clientEvent"].is_string() {
            writeln!(text, "   client: {}", line(&step["clientEvent"]))
        } else if step["serverEvent"].is_string() {
            writeln!(text, "   server: {}", line(&step["serverEvent"]))
        } else if step["close"].is_u64() {
            writeln!(text, "S: close {}", step["close"])
        } else if step["cut"] == true {
            writeln!(text, "-- the link is cut")
        } else {
            let mut words = step["do"].as_str().unwrap().to_owned();
            for (key, value) in step.as_object().unwrap() {
                match key.as_str() {
                    "do" | "frames" => {}
                    "channel" | "data" => {
                        let _ = write!(words, " {}", line(value));
                    }
                    key => {
                        let _ = write!(words, " {key}={value}");
                    }
                }
            }
            writeln!(text, "-- {words}")
        };
    }
    text
}

fn documents() -> Value {
    serde_json::from_str(&read(DOCUMENTS)).unwrap_or_else(|error| panic!("{DOCUMENTS}: {error}"))
}

/// As [`pretty`].
fn pretty_documents(documents: &Value) -> String {
    let mut text = String::from("{\n");
    for part in ["digests", "payloads", "frames"] {
        let _ = writeln!(text, "\"{part}\": [");
        let vectors = documents[part].as_array().unwrap();
        for (index, vector) in vectors.iter().enumerate() {
            let _ = writeln!(text, " {vector}{}", if index + 1 < vectors.len() { "," } else { "" });
        }
        text.push_str("],\n");
    }
    let _ = writeln!(text, "\"dialogues\": {}}}", pretty(documents["dialogues"].as_array().unwrap()));
    text
}

#[test]
fn digests_are_what_the_vectors_say() {
    let documents = documents();
    for vector in documents["digests"].as_array().unwrap() {
        let versions = vector["versions"].as_object().unwrap().iter().map(|(key, n)| (&**key, n.as_u64().unwrap()));
        assert_eq!(vector["h"], json!(Digest::sum(versions)), "{vector}");
    }
    assert!(documents["digests"].as_array().unwrap().len() > 3);
}

#[test]
fn payloads_are_read_as_the_vectors_say() {
    for vector in documents()["payloads"].as_array().unwrap() {
        let text = vector["text"].as_str().unwrap();
        // With the same text where it is ours.
        let found = match vector["of"].as_str().unwrap() {
            "D" => Edit::decode(text.as_bytes()).map(|edit| edit.encode()),
            "C" => Delta::decode(text.as_bytes()).map(|delta| delta.encode()),
            "V" => decode_snapshot(text.as_bytes()).map(|_| text.to_owned().into()),
            other => panic!("{other}"),
        };
        let found = match found {
            Ok(again) if again == text => "ok",
            Ok(_) => "read",
            Err(_) => "bad",
        };
        assert_eq!(found, vector["result"], "{vector}");
    }
}

/// Compact enough to read in a diff: one step a line.
fn pretty(dialogues: &[Value]) -> String {
    let mut text = String::from("[\n");
    for (index, dialogue) in dialogues.iter().enumerate() {
        let _ = write!(text, " {{\"name\": {}, \"about\": {},", dialogue["name"], dialogue["about"]);
        if dialogue["server"].is_object() {
            let _ = write!(text, " \"server\": {},", dialogue["server"]);
        }
        text.push_str("\n  \"steps\": [\n");
        let steps = dialogue["steps"].as_array().unwrap();
        for (index, step) in steps.iter().enumerate() {
            let _ = writeln!(text, "   {step}{}", if index + 1 < steps.len() { "," } else { "" });
        }
        let _ = writeln!(text, "  ]}}{}", if index + 1 < dialogues.len() { "," } else { "" });
    }
    text.push_str("]\n");
    text
}

const DOCUMENTS: &str = "tests/vectors/documents.json";
const DIALOGUES: &str = "tests/vectors/dialogues.json";
const DOCUMENT: &str = "docs/protocol.md";

#[test]
fn dialogues_are_what_happens_and_the_document_shows_them() {
    let mut dialogues = vectors(DIALOGUES);
    let (own, mut documents) = (dialogues.len(), documents());
    dialogues.append(documents["dialogues"].as_array_mut().unwrap());
    let update = std::env::var_os("UPDATE_VECTORS").is_some();
    let mut document = read(DOCUMENT);
    for dialogue in &mut dialogues {
        let name = dialogue["name"].as_str().unwrap().to_owned();
        let steps = play(dialogue);
        if update {
            dialogue["steps"] = Value::from(steps);
        } else {
            for (index, (found, expected)) in steps.iter().zip(dialogue["steps"].as_array().unwrap()).enumerate() {
                assert_eq!(found, expected, "{name}: step {index}");
            }
            assert_eq!(steps.len(), dialogue["steps"].as_array().unwrap().len(), "{name}");
        }
        let begin = format!("```text {name}\n");
        let start = document.find(&begin).unwrap_or_else(|| panic!("{DOCUMENT} does not show {name}")) + begin.len();
        let end = start + document[start..].find("```").unwrap();
        if update {
            document.replace_range(start..end, &transcript(dialogue));
        } else {
            assert_eq!(document[start..end], transcript(dialogue), "{DOCUMENT}: {name}");
        }
    }
    let shown = document.matches("```text ").count();
    assert_eq!(shown, dialogues.len(), "{DOCUMENT} shows a dialogue that is no vector");
    if update {
        documents["dialogues"] = Value::from(dialogues.split_off(own));
        write(DIALOGUES, &pretty(&dialogues));
        write(DOCUMENTS, &pretty_documents(&documents));
        write(DOCUMENT, &document);
    }
}

/// Frames one by one: `ok` and spelled as we spell it, `read` though we spell it otherwise, `ignored`, or a
/// close code.
#[test]
fn frames_are_read_as_the_vectors_say() {
    let mut count = 0;
    let of_documents = documents()["frames"].as_array().unwrap().clone();
    for vector in vectors("tests/vectors/frames.json").into_iter().chain(of_documents) {
        count += 1;
        let text = vector["text"].as_str().unwrap();
        let repeat = vector["repeat"].as_u64().unwrap_or(0) as usize;
        let data = Bytes::from(format!("{text}{}", "x".repeat(repeat)));
        let binary = vector["binary"] == true;
        let result = match vector["from"].as_str().unwrap() {
            "client" => ClientFrame::decode(&data, binary, 1024).map(|frame| frame.map(|frame| frame.encode().data)),
            "server" => ServerFrame::decode(&data, binary, 1024).map(|frame| frame.map(|frame| frame.encode().data)),
            other => panic!("{other}"),
        };
        let found = match result {
            Ok(Some(again)) if again == data => json!("ok"),
            Ok(Some(_)) => json!("read"),
            Ok(None) => json!("ignored"),
            Err(violation) => json!(violation.code),
        };
        assert_eq!(found, vector["result"], "{vector}");
    }
    assert!(count > 40);
}
