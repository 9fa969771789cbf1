use rand::{Rng, SeedableRng};

use super::super::Key;
use super::*;

const LIMIT: u32 = 3;

fn range(generation: u64, first: u64, next: u64) -> OutboxRange {
    OutboxRange { id: Key::new("box").unwrap(), generation, first, next }
}

fn inbox() -> (Inbox, u64) {
    let mut inbox = Inbox::new(Time::ZERO, LIMIT);
    let attached = inbox.attach(&range(1, 1, 1)).unwrap();
    assert_eq!(attached, Attached { attachment: 1, handled: 0, rejected: vec![] });
    (inbox, 1)
}

fn receive(inbox: &mut Inbox, attachment: u64, sequences: impl IntoIterator<Item = u64>) -> Vec<Receipt> {
    sequences
        .into_iter()
        .map(|sequence| inbox.handle_item(attachment, sequence, Bytes::new(), false).unwrap())
        .collect()
}

fn deliveries(inbox: &mut Inbox) -> Vec<DeliveryId> {
    std::iter::from_fn(|| inbox.poll_delivery()).map(|delivery| delivery.id).collect()
}

fn sequences(ids: &[DeliveryId]) -> Vec<u64> {
    ids.iter().map(|id| id.sequence).collect()
}

fn handle(inbox: &mut Inbox, id: DeliveryId) {
    assert!(matches!(inbox.handle_start(id), Start::Attempt(_)));
    inbox.handle_done(id);
}

#[test]
fn handled_is_acknowledged_when_it_is_stored() {
    let (mut inbox, link) = inbox();
    assert_eq!(receive(&mut inbox, link, [1, 2]), [Receipt::Accepted; 2]);
    let ids = deliveries(&mut inbox);
    assert_eq!(sequences(&ids), [1, 2]);
    assert_eq!((inbox.handled(), inbox.poll_store()), (0, None));
    handle(&mut inbox, ids[0]);
    assert_eq!((inbox.handled(), inbox.poll_store(), inbox.acknowledged()), (1, Some(1), 0));
    inbox.handle_stored(1);
    assert_eq!((inbox.poll_store(), inbox.acknowledged()), (None, 1));
}

#[test]
fn a_lost_acknowledgement_brings_a_duplicate_that_is_not_delivered() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1, 2]);
    for id in deliveries(&mut inbox) {
        handle(&mut inbox, id);
    }
    // The store is slower than the link: WELCOME says 1, the client sends 2 again.
    inbox.handle_stored(1);
    let attached = inbox.attach(&range(1, 1, 3)).unwrap();
    assert_eq!(attached.handled, 1);
    assert_eq!(
        receive(&mut inbox, attached.attachment, [1, 2, 2, 3]),
        [Receipt::Duplicate, Receipt::Duplicate, Receipt::Duplicate, Receipt::Accepted]
    );
    assert_eq!(sequences(&deliveries(&mut inbox)), [3]);
}

#[test]
fn a_hole_is_refused_unless_the_client_gives_it_up() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1]);
    let violation = inbox.handle_item(link, 3, Bytes::new(), false).unwrap_err();
    assert_eq!(
        (violation.code, &*violation.reason),
        (close::STATE_INVALID, "P 3: 2 is next, E gives up what will not come")
    );
    assert_eq!(inbox.handle_give_up(link, Some(3), 4).unwrap_err().code, close::STATE_INVALID);
    inbox.handle_give_up(link, Some(2), 4).unwrap();
    assert_eq!(receive(&mut inbox, link, [2, 4, 5]), [Receipt::Duplicate, Receipt::Duplicate, Receipt::Accepted]);
    let ids = deliveries(&mut inbox);
    assert_eq!(sequences(&ids), [1, 5]);
    handle(&mut inbox, ids[0]);
    assert_eq!(inbox.handled(), 4);
    // No memory for what was given up, however much it is.
    inbox.handle_give_up(link, None, super::super::value::MAX_INTEGER).unwrap();
    assert_eq!(inbox.handled(), 4);
    handle(&mut inbox, ids[1]);
    assert_eq!(inbox.handled(), super::super::value::MAX_INTEGER);
    assert!(inbox.items.places.is_empty());
}

#[test]
fn hello_gives_up_what_the_client_no_longer_has() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1, 2, 3]);
    let ids = deliveries(&mut inbox);
    handle(&mut inbox, ids[0]);
    let attached = inbox.attach(&range(2, 3, 9)).unwrap();
    assert_eq!(receive(&mut inbox, attached.attachment, [2, 3]), [Receipt::Duplicate, Receipt::Accepted]);
    assert_eq!(inbox.handled(), 2);
    // A server that remembers nothing begins where the client does.
    let mut fresh = Inbox::new(Time::ZERO, LIMIT);
    let attached = fresh.attach(&range(7, 57, 61)).unwrap();
    assert_eq!((attached.handled, fresh.handled()), (0, 56));
    assert_eq!(receive(&mut fresh, attached.attachment, [57]), [Receipt::Accepted]);
}

#[test]
fn settled_in_any_order_acknowledged_in_order() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1, 2, 3]);
    let ids = deliveries(&mut inbox);
    for id in &ids {
        assert_eq!(inbox.handle_start(*id), Start::Attempt(1));
    }
    inbox.handle_done(ids[2]);
    inbox.handle_done(ids[1]);
    assert_eq!(inbox.handled(), 0);
    // 1 is to be tried again; 2 and 3 are settled and not handled twice.
    let verdict = inbox.handle_rejected(ids[0], 7, "later".into(), false);
    assert_eq!(verdict, Verdict::Reject(Reject { sequence: 1, code: 7, reason: "later".into(), permanent: false }));
    assert_eq!(
        receive(&mut inbox, link, [1, 2, 3, 4]),
        [Receipt::Accepted, Receipt::Duplicate, Receipt::Duplicate, Receipt::Accepted]
    );
    let ids = deliveries(&mut inbox);
    assert_eq!(sequences(&ids), [1, 4]);
    handle(&mut inbox, ids[0]);
    assert_eq!(inbox.handled(), 3);
}

#[test]
fn a_transient_refusal_keeps_the_order() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1, 2, 3]);
    let ids = deliveries(&mut inbox);
    inbox.handle_start(ids[0]);
    inbox.handle_rejected(ids[0], 0, String::new(), false);
    // What was queued behind it, and what is on the wire, comes again.
    assert_eq!(inbox.handle_start(ids[1]), Start::Stale);
    assert_eq!(receive(&mut inbox, link, [4, 5]), [Receipt::Ignored; 2]);
    assert_eq!(inbox.poll_delivery(), None);
    assert_eq!(receive(&mut inbox, link, [1, 2, 3, 4]), [Receipt::Accepted; 4]);
    let ids = deliveries(&mut inbox);
    assert_eq!(sequences(&ids), [1, 2, 3, 4]);
    assert_eq!(inbox.handle_start(ids[0]), Start::Attempt(2));
    inbox.handle_rejected(ids[0], 0, String::new(), false);
    // On its way from before: item 1 is not meant.
    assert_eq!(inbox.handle_give_up(link, Some(5), 6), Ok(()));
    assert_eq!(receive(&mut inbox, link, [7]), [Receipt::Ignored]);
    assert_eq!(inbox.handle_give_up(link, None, 6).unwrap_err().code, close::STATE_INVALID);
    // Given up meanwhile: the rest goes on.
    inbox.handle_give_up(link, Some(1), 1).unwrap();
    assert_eq!(receive(&mut inbox, link, [2]), [Receipt::Accepted]);
    assert_eq!(inbox.handled(), 1);
}

#[test]
fn a_poison_item_does_not_block_the_queue() {
    let (mut inbox, _) = inbox();
    for attempt in 1..=LIMIT {
        let link = inbox.attach(&range(1, 1, 3)).unwrap().attachment;
        assert_eq!(receive(&mut inbox, link, [1, 2]), [Receipt::Accepted; 2]);
        let id = inbox.poll_delivery().unwrap().id;
        assert_eq!(inbox.handle_start(id), Start::Attempt(attempt));
        let verdict = inbox.handle_failed(id);
        if attempt < LIMIT {
            assert_eq!(verdict, Verdict::Close);
            assert_eq!(receive(&mut inbox, link, [3]), [Receipt::Stale]);
            assert_eq!(inbox.poll_delivery(), None);
            assert_eq!(inbox.handled(), 0);
        } else {
            let reason = "the handler failed 3 times".to_owned();
            assert_eq!(verdict, Verdict::Reject(Reject { sequence: 1, code: 0, reason, permanent: true }));
        }
    }
    assert_eq!(inbox.handled(), 1);
    assert_eq!(sequences(&deliveries(&mut inbox)), [2]);
    // Refused again and again without a failure: the same limit.
    let mut refused = Inbox::new(Time::ZERO, LIMIT);
    let link = refused.attach(&range(1, 1, 2)).unwrap().attachment;
    for attempt in 1..=LIMIT {
        receive(&mut refused, link, [1]);
        let id = refused.poll_delivery().unwrap().id;
        refused.handle_start(id);
        let Verdict::Reject(reject) = refused.handle_rejected(id, 0, String::new(), false) else { panic!() };
        assert_eq!(reject.permanent, attempt == LIMIT);
    }
    assert_eq!(refused.handled(), 1);
}

#[test]
fn a_lost_refusal_is_told_again_until_the_client_knows() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1, 2]);
    let ids = deliveries(&mut inbox);
    handle(&mut inbox, ids[0]);
    inbox.handle_start(ids[1]);
    inbox.handle_rejected(ids[1], 9, "no".into(), true);
    // Also while its mark is not stored.
    assert_eq!(inbox.attach(&range(1, 1, 3)).unwrap().rejected.len(), 1);
    inbox.handle_stored(2);
    let attached = inbox.attach(&range(1, 1, 3)).unwrap();
    assert_eq!(attached.handled, 2);
    assert_eq!(attached.rejected, [Reject { sequence: 2, code: 9, reason: "no".into(), permanent: true }]);
    assert_eq!(inbox.attach(&range(1, 3, 3)).unwrap().rejected, []);
    assert_eq!(inbox.rejected().count(), 0);
}

#[test]
fn a_take_over_throws_away_what_waits_and_waits_for_what_runs() {
    let (mut inbox, old) = inbox();
    receive(&mut inbox, old, [1, 2, 3]);
    let first = inbox.poll_delivery().unwrap().id;
    let second = inbox.poll_delivery().unwrap().id;
    inbox.handle_start(first);
    let new = inbox.attach(&range(1, 1, 4)).unwrap().attachment;
    assert_eq!(inbox.handle_item(old, 4, Bytes::new(), false), Ok(Receipt::Stale));
    inbox.handle_give_up(old, None, 99).unwrap();
    assert_eq!(inbox.handle_start(second), Start::Stale);
    assert_eq!(receive(&mut inbox, new, [1, 2, 3]), [Receipt::Duplicate, Receipt::Accepted, Receipt::Accepted]);
    assert_eq!(inbox.poll_delivery(), None);
    inbox.handle_done(first);
    assert_eq!(inbox.handled(), 1);
    let ids = deliveries(&mut inbox);
    assert_eq!(sequences(&ids), [2, 3]);
    assert_eq!(inbox.handle_start(ids[0]), Start::Attempt(1));
}

#[test]
fn a_handler_that_fails_after_the_take_over_is_asked_for_again_on_the_new_connection() {
    let (mut inbox, old) = inbox();
    receive(&mut inbox, old, [1]);
    let first = inbox.poll_delivery().unwrap().id;
    inbox.handle_start(first);
    let new = inbox.attach(&range(1, 1, 3)).unwrap().attachment;
    receive(&mut inbox, new, [1, 2]);
    let reject = Reject { sequence: 1, code: 0, reason: "the handler failed".into(), permanent: false };
    assert_eq!(inbox.handle_failed(first), Verdict::Reject(reject));
    assert_eq!(receive(&mut inbox, new, [3]), [Receipt::Ignored]);
    assert_eq!(receive(&mut inbox, new, [1, 2]), [Receipt::Accepted; 2]);
    assert_eq!(sequences(&deliveries(&mut inbox)), [1, 2]);
    // The verdict on a delivery that is over changes nothing.
    assert_eq!(inbox.handle_failed(first), Verdict::Stale);
    assert_eq!(inbox.handle_rejected(first, 0, String::new(), true), Verdict::Stale);
    inbox.handle_done(first);
    assert_eq!(inbox.handled(), 0);
}

#[test]
fn a_forgotten_process_is_fenced() {
    let (mut inbox, zombie) = inbox();
    inbox.attach(&range(2, 1, 1)).unwrap();
    assert_eq!(inbox.handle_item(zombie, 1, Bytes::new(), false), Ok(Receipt::Stale));
    let fenced = inbox.attach(&range(1, 1, 1)).unwrap_err();
    assert_eq!(fenced, Fenced { given: 1, newest: 2 });
    assert!(fenced.to_string().contains("generation 1, the newest is 2"));
}

#[test]
fn after_the_link_is_lost_what_waits_is_still_handled() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1, 2]);
    let now = Time::from_micros(5);
    inbox.detach(now, link);
    assert_eq!(inbox.idle_since(), Some(now));
    let ids = deliveries(&mut inbox);
    inbox.handle_start(ids[0]);
    assert_eq!(inbox.idle_since(), None);
    inbox.handle_done(ids[0]);
    assert_eq!(inbox.handled(), 1);
    // Nobody to tell: it comes again with the next connection.
    inbox.handle_start(ids[1]);
    assert!(matches!(inbox.handle_failed(ids[1]), Verdict::Reject(Reject { permanent: false, .. })));
    let link = inbox.attach(&range(1, 2, 3)).unwrap().attachment;
    assert_eq!(receive(&mut inbox, link, [2]), [Receipt::Accepted]);
    // An old connection's end changes nothing for the new one.
    inbox.detach(now, 1);
    assert_eq!(inbox.idle_since(), None);
}

#[test]
fn what_was_acknowledged_before_it_came_again_need_not_come() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1, 2]);
    let ids = deliveries(&mut inbox);
    handle(&mut inbox, ids[0]);
    assert_eq!(inbox.handle_start(ids[1]), Start::Attempt(1));
    // Another connection, while the handler runs; the client's window has no room for 2 yet.
    let link = inbox.attach(&range(1, 1, 4)).unwrap().attachment;
    assert_eq!(receive(&mut inbox, link, [1]), [Receipt::Duplicate]);
    inbox.handle_done(ids[1]);
    assert!(inbox.handle_item(link, 3, Bytes::new(), false).is_err());
    inbox.handle_stored(2);
    assert_eq!(receive(&mut inbox, link, [3]), [Receipt::Accepted]);
    // Nor must it be given up.
    assert!(inbox.handle_give_up(link, Some(2), 3).is_ok());
}

#[test]
fn one_that_stays_for_long_does_not_keep_what_came_and_went_behind_it() {
    let (mut inbox, link) = inbox();
    receive(&mut inbox, link, [1]);
    let first = deliveries(&mut inbox)[0];
    inbox.handle_start(first);
    for sequence in 2..10_000 {
        receive(&mut inbox, link, [sequence]);
        for id in deliveries(&mut inbox) {
            handle(&mut inbox, id);
        }
        assert!(inbox.items.places.len() <= 2 * KEPT + 2, "{}", inbox.items.places.len());
    }
    assert_eq!((inbox.handled(), inbox.outstanding()), (0, cost(0)));
    inbox.handle_done(first);
    assert_eq!((inbox.handled(), inbox.outstanding()), (9999, 0));
    assert!(inbox.items.places.is_empty());
}

#[test]
fn items_are_found_by_their_numbers_as_in_a_map() {
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    for _ in 0..200 {
        let (mut items, mut map) = (Items::default(), BTreeMap::new());
        let mut next = 1;
        for _ in 0..300 {
            let sequence = random.random_range(1..next + 3);
            match random.random_range(0..8) {
                0..=3 => {
                    let item = Item::Queued { serial: next, bytes: 0 };
                    assert_eq!(items.insert(sequence, item), map.insert(sequence, item));
                    next = next.max(sequence) + 1;
                }
                4..=6 => assert_eq!(items.remove(sequence), map.remove(&sequence)),
                _ => {
                    let least = sequence / 2;
                    items.retain(|sequence, _| sequence >= least);
                    map.retain(|sequence, _| *sequence >= least);
                }
            }
            assert_eq!(items.first(), map.first_key_value().map(|(sequence, _)| *sequence));
            assert_eq!(items.get(sequence), map.get(&sequence).copied());
            assert!(items.behind_mut(sequence).map(|item| *item).eq(map.range(sequence + 1..).map(|(_, item)| *item)));
        }
    }
}
