//! A model checker for `lifeline.v1`: random schedules of everything that may happen to two ends and what is
//! between them, against a proxy and a clock that are moved by hand.
//!
//! `MODEL_SCHEDULES=10000` says how many, `MODEL_FIRST=1` from which seed on, `MODEL_SEED=7` plays one,
//! `MODEL_TRACE=1` tells what moves.

mod book;
mod check;
mod schedule;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use schedule::{DIALOGUES, Keeps, Op, Setup, schedule};
use world::World;

type Reached = BTreeMap<String, u64>;

/// What went wrong, if something did.
fn play(setup: &Setup, ops: &[Op]) -> Result<Reached, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(setup.clone());
        for op in ops {
            world.step(*op);
        }
        world.finish_all();
        world.reached
    }));
    result.map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Leaves operations out while it still fails.
fn shrink(setup: &Setup, mut ops: Vec<Op>) -> Vec<Op> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut size = ops.len() / 2;
    while size > 0 {
        let mut from = 0;
        let before = ops.len();
        while from < ops.len() && Instant::now() < until {
            let mut fewer = ops.clone();
            fewer.drain(from..(from + size).min(ops.len()));
            if play(setup, &fewer).is_err() {
                ops = fewer;
            } else {
                from += size;
            }
        }
        if ops.len() == before || size > 1 {
            size /= 2;
        }
    }
    ops
}

/// What 10,000 schedules reach at the least, in times.
const FLOORS: &[(&str, u64)] = &[
    ("C: A", 8659),
    ("C: E", 1038),
    ("C: H", 39_891),
    ("C: I", 870),
    ("C: O", 498),
    ("C: P", 153_048),
    ("C: P with s", 273),
    ("C: S", 10_609),
    ("C: T", 851),
    ("C: U", 1340),
    ("G: diverged", 5),
    ("G: epoch", 1924),
    ("G: history", 1064),
    ("G: overflow", 4303),
    ("G: slow", 575),
    ("H of a session that its server has forgotten", 500),
    ("K: Denied", 1736),
    ("K: Gap", 2215),
    ("K: Left", 1509),
    ("K: Ok", 12_064),
    ("K: Snapshot", 1526),
    ("N for good", 5),
    ("N for now", 5),
    ("S: A", 64_294),
    ("S: B", 1129),
    ("S: C", 13_054),
    ("S: G", 8027),
    ("S: M", 12_882),
    ("S: M with q", 263),
    ("S: R", 27_542),
    ("S: X", 320),
    ("W: expired", 172),
    ("W: overflow", 4183),
    ("W: rejected", 5),
    ("W: restart", 4299),
    ("W: superseded", 5),
    ("attempt again", 525),
    ("batch under way", 4000),
    ("beat answered", 475),
    ("client killed", 2494),
    ("client killed, nothing kept", 1341),
    ("close 1011", 5),
    ("close 4000", 2602),
    ("close 4002", 271),
    ("close 4003", 870),
    ("close 4501", 2816),
    ("close 4502", 3038),
    ("close 4503", 334),
    ("connection played again", 1066),
    ("frame of an ended connection", 1076),
    ("gap diverged", 5),
    ("gap epoch", 1890),
    ("gap expired", 170),
    ("gap history", 1000),
    ("gap overflow", 4009),
    ("gap restart", 4284),
    ("gap slow", 551),
    ("gap superseded", 5),
    ("item expired", 1986),
    ("item that came twice", 1131),
    ("left when asked", 5),
    ("outbox evicted", 971),
    ("outbox expired", 5),
    ("poison", 5),
    ("power cut, session goes on", 800),
    ("power cut, session lost", 30),
    ("refusal told", 252),
    ("resend", 223),
    ("restart Clean", 1813),
    ("restart Empty", 2313),
    ("restart Killed", 2239),
    ("restart PowerCut", 500),
    ("restart RolledBack", 462),
    ("resumed", 6025),
    ("ring given back", 1023),
    ("session ended", 1059),
    ("stale delivery", 3806),
    ("written anew", 100),
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn nothing_is_lost_nothing_comes_twice_and_every_hole_is_told() {
    let one = number("MODEL_SEED");
    let first = one.or_else(|| number("MODEL_FIRST")).unwrap_or(1);
    let count = if one.is_some() { 1 } else { number("MODEL_SCHEDULES").unwrap_or(300) };
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let reached = Mutex::new(Reached::new());
    let failed = Mutex::new(Vec::new());
    std::panic::set_hook(Box::new(|_| {}));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Reached::new();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if (seed - first) % 1000 == 999 {
                        eprintln!("{} schedules, {:.1} s", seed - first + 1, begun.elapsed().as_secs_f64());
                    }
                    let (setup, ops) = schedule(seed);
                    match play(&setup, &ops) {
                        Ok(these) => {
                            for (what, n) in these {
                                *mine.entry(what).or_default() += n;
                            }
                        }
                        Err(problem) => {
                            stop.store(true, Ordering::Relaxed);
                            failed.lock().unwrap().push((seed, setup, ops, problem));
                        }
                    }
                }
                let mut reached = reached.lock().unwrap();
                for (what, n) in mine {
                    *reached.entry(what).or_default() += n;
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, ..)| *seed);
    let Some((seed, setup, ops, problem)) = failed.into_iter().next() else {
        let _ = std::panic::take_hook();
        let reached = reached.into_inner().unwrap();
        eprintln!("{count} schedules from {first} on, {:.1} s; reached:", begun.elapsed().as_secs_f64());
        for (what, n) in &reached {
            eprintln!("{n:>9}  {what}");
        }
        if one.is_none() && count >= 3000 {
            for (what, floor) in FLOORS {
                let n = reached.get(*what).copied().unwrap_or(0);
                let floor = floor * count.min(10_000) / 10_000;
                assert!(n >= floor, "{what} was reached {n} times, at least {floor} were expected: the model is blind");
            }
        }
        return;
    };
    let ops = shrink(&setup, ops);
    let shrunk = play(&setup, &ops).err();
    let _ = std::panic::take_hook();
    panic!(
        "schedule {seed}, number {}: {problem}\n{setup:#?}\n{} operations are enough for: {}\n{ops:?}\n\
         again: MODEL_SEED={seed} cargo test -p lifeline-proto --test model",
        seed - first + 1,
        ops.len(),
        shrunk.unwrap_or_default(),
    );
}

/// Plays a dialogue; returns how many frames moved to the server and to the client.
fn dialogue(ops: &[Op], setup: &Setup, cut: Option<(usize, u32, Op)>) -> [u32; 2] {
    let mut world = World::new(setup.clone());
    world.cut = cut;
    for op in ops {
        world.step(*op);
    }
    let moved = world.moved;
    world.finish_all();
    moved
}

#[test]
fn every_dialogue_may_be_cut_after_every_frame_in_either_direction() {
    let (mut cuts, mut frames) = (0, 0);
    for (name, ops) in DIALOGUES {
        for bits in 0..12 {
            let mut setup = Setup::strict(bits & 1 > 0, bits & 2 > 0 || bits >= 8, bits & 4 > 0);
            if bits >= 8 {
                setup.slow = bits & 2 > 0;
                setup.keeps = Some(Keeps::Eager);
            }
            let moved = dialogue(ops, &setup, None);
            assert!(moved[0] > 0 && moved[1] > 1 || setup.slow, "{name}: {moved:?}");
            for (direction, frames_moved) in moved.into_iter().enumerate() {
                frames += frames_moved;
                for after in 1..=frames_moved {
                    for how in [Op::Cut(0), Op::Reset(0), Op::HalfOpen(0), Op::Deaf(0)] {
                        let cut = AssertUnwindSafe(|| dialogue(ops, &setup, Some((direction, after, how))));
                        if let Err(panic) = catch_unwind(cut) {
                            let problem = words(&*panic);
                            panic!("{name}, direction {direction}, {how:?} after {after}, {setup:?}: {problem}");
                        }
                        cuts += 1;
                    }
                }
            }
        }
    }
    eprintln!("{} dialogues, {frames} frames, {cuts} cuts", DIALOGUES.len());
    assert!(cuts > 1000, "{cuts}");
}
