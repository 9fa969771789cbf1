//! A model checker for `lifeline.v1`: random schedules of everything that may happen to two ends and what is
//! between them, against a proxy and a clock that are moved by hand.
//!
//! `MODEL_SCHEDULES=10000` says how many, `MODEL_FIRST=1` from which seed on, `MODEL_SEED=7` plays one.

mod check;
mod schedule;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use schedule::{Op, Setup, schedule};
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
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
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
                        Ok(these) => these.into_iter().for_each(|(what, n)| *mine.entry(what).or_default() += n),
                        Err(problem) => {
                            stop.store(true, Ordering::Relaxed);
                            failed.lock().unwrap().push((seed, setup, ops, problem));
                        }
                    }
                }
                let mut reached = reached.lock().unwrap();
                mine.into_iter().for_each(|(what, n)| *reached.entry(what).or_default() += n);
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
