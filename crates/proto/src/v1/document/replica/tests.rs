use super::*;

fn id(id: &str) -> ShortId {
    ShortId::new(id).unwrap()
}

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

/// One that follows the document of epoch `e1` with `a` = 1 at version 1.
fn replica(policy: Policy) -> Replica<impl FnMut() -> ShortId> {
    let mut number = 0;
    let ids = move || {
        number += 1;
        id(&format!("o{number}"))
    };
    let mut replica = Replica::new(ChannelName::new("board").unwrap(), policy, ids);
    replica.handle_replay_done();
    assert_eq!(replica.poll_verify(), None, "not before K");
    replica.handle_subscribed(false);
    assert_eq!(replica.poll_verify(), Some(Place::none()));
    replica.handle_state(place(1, &[("a", 1)]), br#"{"a":[1,1]}"#);
    assert_eq!(events(&mut replica), [changed("a", false), Event::Synced]);
    assert!(replica.is_synced());
    replica
}

fn place(version: u64, versions: &[(&str, u64)]) -> Place {
    Place { epoch: id("e1"), version, digest: Digest::sum(versions.iter().copied()) }
}

fn delta(version: u64, key: &str, value: &str, operation: Option<&str>, versions: &[(&str, u64)]) -> Vec<u8> {
    let digest = Digest::sum(versions.iter().copied());
    let (key, value, id) = (key.into(), Some(json(value)), operation.map(self::id));
    Delta { epoch: self::id("e1"), version, key, value, id, digest }.encode().to_vec()
}

fn changed(key: &str, local: bool) -> Event {
    Event::Changed { key: key.into(), local }
}

fn events<F: FnMut() -> ShortId>(replica: &mut Replica<F>) -> Vec<Event> {
    std::iter::from_fn(|| replica.poll_event()).collect()
}

/// An edit, put into the outbox as item `sequence`.
fn edit<F: FnMut() -> ShortId>(replica: &mut Replica<F>, key: &str, value: &str, sequence: u64) -> Edit {
    replica.edit(key, Some(json(value))).unwrap();
    let edit = replica.poll_edit().unwrap();
    replica.handle_queued(&edit.id, sequence);
    assert_eq!(events(replica), [changed(key, true)]);
    edit
}

#[test]
fn a_hole_asks_for_the_state_once() {
    let mut replica = replica(Policy::ServerWins);
    replica.handle_delta(&delta(3, "a", "3", None, &[("a", 3)]));
    assert_eq!(replica.poll_verify(), Some(place(1, &[("a", 1)])));
    replica.handle_delta(&delta(4, "a", "4", None, &[("a", 4)]));
    assert_eq!(replica.poll_verify(), None, "one is under way");
    // The last delta overtook this answer.
    replica.handle_state(place(3, &[("a", 3)]), br#"{"a":[3,3]}"#);
    assert!(!replica.is_synced());
    assert_eq!(replica.poll_verify(), Some(place(3, &[("a", 3)])));
    replica.handle_state(place(4, &[("a", 4)]), br#"{"a":[4,4]}"#);
    assert_eq!((replica.poll_verify(), replica.get("a")), (None, Some(&json("4"))));
    assert_eq!(events(&mut replica), [changed("a", false), changed("a", false)]);
}

#[test]
fn what_is_known_changes_nothing() {
    let mut replica = replica(Policy::ServerWins);
    replica.handle_delta(&delta(1, "a", "7", None, &[("a", 1)]));
    assert_eq!((replica.poll_verify(), replica.get("a")), (None, Some(&json("1"))));
    // An answer that deltas have overtaken.
    replica.handle_gap();
    assert!(replica.poll_verify().is_some());
    replica.handle_delta(&delta(2, "a", "2", None, &[("a", 2)]));
    replica.handle_state(place(1, &[("a", 1)]), br#"{"a":[1,1]}"#);
    assert_eq!(replica.get("a"), Some(&json("2")));
    assert_eq!(replica.poll_verify(), None);
}

#[test]
fn a_wrong_digest_asks_for_everything() {
    let mut replica = replica(Policy::ServerWins);
    replica.handle_delta(&delta(2, "b", "2", None, &[("b", 2)]));
    assert_eq!(replica.poll_verify(), Some(Place::none()));
    replica.handle_state(place(2, &[("b", 2)]), br#"{"b":[2,2]}"#);
    assert_eq!((replica.get("a"), replica.is_synced()), (None, true));
    replica.handle_delta(b"{}");
    assert_eq!(replica.poll_verify(), Some(Place::none()), "no delta at all");
}

#[test]
fn an_edit_stays_until_the_state_has_it() {
    let mut replica = replica(Policy::ServerWins);
    let edit = edit(&mut replica, "a", "2", 1);
    assert_eq!(edit.condition, Condition::Version(id("e1"), 1));
    replica.handle_acknowledged(1);
    assert_eq!((replica.pending(), replica.poll_verify()), (1, None));
    replica.handle_delta(&delta(2, "a", "2", Some("o1"), &[("a", 2)]));
    assert_eq!((replica.pending(), events(&mut replica)), (0, vec![]), "the application sees no change");
}

#[test]
fn an_acknowledged_edit_whose_delta_fell_into_a_gap_is_asked_for() {
    let mut replica = replica(Policy::ServerWins);
    edit(&mut replica, "a", "2", 1);
    replica.handle_gap();
    assert!(replica.poll_verify().is_some());
    replica.handle_state(place(2, &[("a", 2)]), br#"{"a":[2,2]}"#);
    assert_eq!(replica.pending(), 1, "the answer may be older than the edit");
    replica.handle_acknowledged(1);
    assert!(replica.poll_verify().is_some());
    assert_eq!(replica.pending(), 1);
    replica.handle_state(place(2, &[("a", 2)]), b"");
    assert_eq!((replica.pending(), events(&mut replica)), (0, vec![]));
}

#[test]
fn a_conflict_waits_for_its_cause_and_takes_the_chain_along() {
    let mut replica = replica(Policy::ServerWins);
    edit(&mut replica, "b", "0", 1);
    edit(&mut replica, "a", "2", 2);
    assert_eq!(edit(&mut replica, "a", "3", 3).condition, Condition::After(id("o2")));
    replica.handle_rejected(&id("o2"), CONFLICT, "e1 3");
    assert_eq!(events(&mut replica), []);
    assert_eq!(replica.get("a"), Some(&json("3")));
    replica.handle_delta(&delta(2, "b", "0", Some("o1"), &[("a", 1), ("b", 2)]));
    assert_eq!(events(&mut replica), []);
    replica.handle_delta(&delta(3, "a", "9", None, &[("a", 3), ("b", 2)]));
    let conflict = Conflict {
        key: "a".into(),
        mine: Some(json("3")),
        theirs: Some((3, json("9"))),
        attempt: 1,
        resolution: Resolution::Server,
    };
    assert_eq!(events(&mut replica), [Event::Conflict(conflict), changed("a", false)]);
    assert!(replica.is_made_here(&id("o3")), "its refusal is no news");
    assert_eq!((replica.poll_obsolete(), replica.poll_obsolete()), (Some(3), None));
    replica.handle_rejected(&id("o3"), CONFLICT, "e1 3");
    replica.handle_acknowledged(3);
    assert_eq!((events(&mut replica), replica.pending(), replica.poll_verify()), (vec![], 0, None));
}

#[test]
fn a_conflict_with_another_epoch_asks_for_the_state() {
    let mut replica = replica(Policy::ServerWins);
    edit(&mut replica, "a", "2", 1);
    // The document was made anew between the refusal and now.
    let e3 = Place { epoch: id("e3"), version: 1, digest: Digest::of("a", 1) };
    replica.handle_state(e3.clone(), br#"{"a":[1,5]}"#);
    assert!(replica.is_synced());
    replica.handle_rejected(&id("o1"), CONFLICT, "e2 4");
    assert!(!replica.is_synced());
    assert_eq!((replica.poll_verify(), replica.poll_verify()), (Some(e3.clone()), None));
    assert_eq!(events(&mut replica), []);
    replica.handle_state(e3, b"");
    let conflict = Conflict {
        key: "a".into(),
        mine: Some(json("2")),
        theirs: Some((1, json("5"))),
        attempt: 1,
        resolution: Resolution::Server,
    };
    assert_eq!(events(&mut replica), [Event::Conflict(conflict), changed("a", false)]);
    assert_eq!((replica.pending(), replica.poll_verify(), replica.is_synced()), (0, None, true));
}

#[test]
fn a_question_under_way_when_the_conflict_came_is_asked_again() {
    let mut replica = replica(Policy::ServerWins);
    edit(&mut replica, "a", "2", 1);
    replica.handle_gap();
    assert!(replica.poll_verify().is_some());
    replica.handle_rejected(&id("o1"), CONFLICT, "e2 4");
    assert_eq!(replica.poll_verify(), None, "one is under way");
    replica.handle_state(place(1, &[("a", 1)]), b"");
    assert_eq!(events(&mut replica), [], "it was asked for before the refusal");
    assert!(replica.poll_verify().is_some());
    replica.handle_state(place(1, &[("a", 1)]), b"");
    assert_eq!((events(&mut replica).len(), replica.pending(), replica.poll_verify()), (2, 0, None));
}

#[test]
fn what_cannot_get_through_does_not_go_into_the_outbox() {
    let mut replica = replica(Policy::ServerWins);
    edit(&mut replica, "a", "2", 1);
    replica.edit("a", Some(json("3"))).unwrap();
    replica.edit("b", Some(json("4"))).unwrap();
    replica.handle_dropped(&id("o1"), 0, "expired");
    assert_eq!(replica.poll_edit().map(|edit| edit.id), Some(id("o3")));
    assert_eq!((replica.poll_edit(), replica.poll_obsolete()), (None, None));
}

#[test]
fn nor_stays_there_what_was_on_its_way_into_it() {
    let mut replica = replica(Policy::ServerWins);
    let first = replica.edit("c", Some(json("1"))).unwrap();
    let second = replica.edit("c", Some(json("2"))).unwrap();
    assert_eq!(std::iter::from_fn(|| replica.poll_edit()).count(), 2);
    replica.handle_dropped(&first, 0, "limit");
    assert_eq!(replica.poll_obsolete(), None);
    replica.handle_queued(&second, 9);
    assert_eq!((replica.poll_obsolete(), replica.is_made_here(&second)), (Some(9), false));
}

#[test]
fn those_before_a_refused_one_were_applied() {
    let mut replica = replica(Policy::ServerWins);
    edit(&mut replica, "b", "0", 1);
    edit(&mut replica, "a", "2", 2);
    replica.handle_rejected(&id("o2"), super::super::FORBIDDEN, "not allowed");
    let refused = Event::Refused { key: "a".into(), value: Some(json("2")), code: 403, reason: "not allowed".into() };
    assert_eq!(events(&mut replica), [refused, changed("a", false)]);
    replica.handle_gap();
    assert!(replica.poll_verify().is_some());
    replica.handle_state(place(2, &[("a", 1), ("b", 2)]), br#"{"a":[1,1],"b":[2,0]}"#);
    assert_eq!((replica.pending(), replica.get("b")), (0, Some(&json("0"))));
}

#[test]
fn an_edit_that_is_given_up_says_nothing_of_others() {
    let mut replica = replica(Policy::ServerWins);
    edit(&mut replica, "b", "0", 1);
    edit(&mut replica, "a", "2", 2);
    edit(&mut replica, "a", "3", 3);
    replica.handle_dropped(&id("o2"), 0, "expired");
    let refused = Event::Refused { key: "a".into(), value: Some(json("3")), code: 0, reason: "expired".into() };
    assert_eq!(events(&mut replica), [refused, changed("a", false)]);
    assert_eq!((replica.poll_obsolete(), replica.poll_obsolete()), (Some(3), None));
    replica.handle_gap();
    assert!(replica.poll_verify().is_some());
    replica.handle_state(place(1, &[("a", 1)]), b"");
    assert_eq!((replica.pending(), replica.get("b")), (1, Some(&json("0"))));
}

#[test]
fn a_client_that_wants_to_win_gives_up_at_last() {
    let mut replica = replica(Policy::ClientWins);
    edit(&mut replica, "a", "2", 1);
    for attempt in 1..=MAX_ATTEMPTS + 1 {
        let version = u64::from(attempt) + 1;
        replica.handle_delta(&delta(version, "a", "0", None, &[("a", version)]));
        let last = id(&format!("o{attempt}"));
        replica.handle_rejected(&last, CONFLICT, &format!("e1 {version}"));
        let Event::Conflict(conflict) = &events(&mut replica)[0] else { panic!() };
        let gives_up = attempt > MAX_ATTEMPTS;
        assert_eq!(conflict.resolution == Resolution::Server, gives_up);
        let again = replica.poll_edit();
        assert_eq!(again.is_none(), gives_up);
        if let Some(edit) = again {
            assert_eq!(edit.condition, Condition::Version(id("e1"), version));
            replica.handle_queued(&edit.id, u64::from(attempt) + 1);
        }
    }
    assert_eq!(replica.get("a"), Some(&json("0")));
}

#[test]
fn what_the_outbox_does_not_take_was_not_made() {
    let mut replica = replica(Policy::ServerWins);
    let made = replica.edit("a", None).unwrap();
    assert_eq!(replica.get("a"), None);
    replica.withdraw(&made);
    assert_eq!((replica.get("a"), replica.pending()), (Some(&json("1")), 0));
    assert!(replica.edit("", None).is_err());
}

#[test]
fn edits_of_an_earlier_process_are_on_top() {
    let mut earlier = replica(Policy::ServerWins);
    let left = edit(&mut earlier, "a", "2", 7);
    let mut replica = Replica::new(ChannelName::new("board").unwrap(), Policy::ServerWins, || id("x1"));
    replica.restore(left, 7);
    assert_eq!(replica.get("a"), Some(&json("2")));
    replica.handle_acknowledged(7);
    replica.handle_subscribed(false);
    replica.handle_replay_done();
    assert!(replica.poll_verify().is_some());
    replica.handle_state(place(2, &[("a", 2)]), br#"{"a":[2,2]}"#);
    assert_eq!((replica.pending(), replica.get("a")), (0, Some(&json("2"))));
}

#[test]
fn another_document_begins_at_its_first_change() {
    let mut replica = replica(Policy::ServerWins);
    let value = Some(json("5"));
    let digest = Digest::of("b", 1);
    let first = Delta { epoch: id("e2"), version: 1, key: "b".into(), value, id: None, digest };
    replica.handle_delta(&first.encode());
    assert_eq!(replica.poll_verify(), None);
    assert_eq!((replica.get("a"), replica.get("b")), (None, Some(&json("5"))));
    // There is none any more: what is known stays.
    replica.handle_state(Place::none(), b"");
    assert_eq!(replica.get("b"), Some(&json("5")));
}

#[test]
fn where_there_is_no_document_nothing_is_known() {
    let mut replica = Replica::new(ChannelName::new("board").unwrap(), Policy::ServerWins, || id("x1"));
    edit(&mut replica, "a", "2", 1);
    replica.handle_acknowledged(1);
    replica.handle_subscribed(false);
    replica.handle_replay_done();
    assert!(replica.poll_verify().is_some());
    replica.handle_state(Place::none(), b"");
    assert_eq!((replica.pending(), replica.is_synced(), events(&mut replica)), (1, false, vec![]));
    // It is opened, and told unasked.
    replica.handle_state(place(0, &[]), b"{}");
    assert_eq!((replica.is_synced(), events(&mut replica).contains(&Event::Synced)), (true, true));
}

/// Its server is another one, which has no document.
#[test]
fn a_conflict_waits_no_longer_when_there_is_no_document() {
    let mut replica = replica(Policy::ServerWins);
    let edit = edit(&mut replica, "a", "2", 1);
    replica.handle_lost();
    replica.handle_subscribed(true);
    replica.handle_rejected(&edit.id, 409, "e2 4");
    replica.handle_replay_done();
    assert!(replica.poll_verify().is_some());
    assert_eq!(events(&mut replica), []);
    replica.handle_state(Place::none(), b"");
    let conflict = events(&mut replica);
    assert!(matches!(&conflict[..], [Event::Conflict(_), Event::Changed { .. }]), "{conflict:?}");
    assert_eq!((replica.pending(), replica.is_synced()), (0, false));
}

#[test]
fn an_answer_that_was_overtaken_is_asked_for_again() {
    let mut replica = replica(Policy::ServerWins);
    replica.handle_delta(&delta(2, "b", "2", None, &[("b", 2)]));
    assert_eq!(replica.poll_verify(), Some(Place::none()), "the digest is another");
    replica.handle_delta(&delta(3, "c", "3", None, &[("a", 1), ("b", 2), ("c", 3)]));
    replica.handle_state(place(2, &[("b", 2)]), br#"{"b":[2,2]}"#);
    assert_eq!((replica.place().version, replica.is_synced()), (2, false));
    assert_eq!(replica.poll_verify(), Some(place(2, &[("b", 2)])));
}

#[test]
fn an_answer_to_a_question_from_before_does_not_settle_an_edit() {
    let mut replica = replica(Policy::ServerWins);
    edit(&mut replica, "a", "2", 1);
    replica.handle_gap();
    assert!(replica.poll_verify().is_some());
    replica.handle_acknowledged(1);
    replica.handle_state(place(1, &[("a", 1)]), b"");
    assert_eq!((replica.pending(), replica.get("a")), (1, Some(&json("2"))));
    replica.handle_delta(&delta(2, "a", "2", Some("o1"), &[("a", 2)]));
    assert_eq!((replica.pending(), replica.poll_verify()), (0, None));
}
