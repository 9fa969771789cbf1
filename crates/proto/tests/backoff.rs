//! The delays of `tests/vectors/backoff.json`, which the browser client plays, too: seconds, and numbers from 0
//! up to 1 of which each stands for one draw.

use std::path::Path;
use std::time::Duration;

use lifeline_proto::Time;
use lifeline_proto::backoff::{Backoff, BackoffConfig};
use rand::RngCore;
use serde_json::Value;

/// Gives a fraction of what can be drawn; a hair more each time, as a sampler without bias may ask again.
struct Fraction {
    value: Option<f64>,
    draws: u32,
}

impl RngCore for Fraction {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        let value = self.value.expect("a random number that the vector does not have");
        let hair = u64::from(self.draws) * 0x3_0000_0001;
        self.draws += 1;
        ((value * 18_446_744_073_709_551_616.0) as u64).saturating_add(hair)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        dest.fill(0);
    }
}

fn seconds(value: &Value) -> Option<Duration> {
    value.as_f64().map(Duration::from_secs_f64)
}

fn at(value: &Value) -> Time {
    Time::ZERO + seconds(value).unwrap()
}

#[test]
fn delays_are_those_of_the_vectors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/backoff.json");
    let vectors: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut delays = 0;
    for vector in &vectors {
        let options = &vector["options"];
        let default = BackoffConfig::default();
        let mut backoff = Backoff::new(BackoffConfig {
            base: seconds(&options["base"]).unwrap_or(default.base),
            max: seconds(&options["max"]).unwrap_or(default.max),
            factor: options["factor"].as_f64().unwrap_or(default.factor),
            floor: seconds(&options["floor"]).unwrap_or(default.floor),
            first: seconds(&options["first"]),
            max_attempts: options["maxAttempts"].as_u64().map(|most| most as u32),
            stable_after: seconds(&options["stableAfter"]).unwrap_or(default.stable_after),
            ..default
        });
        for step in vector["steps"].as_array().unwrap() {
            if !step["connected"].is_null() {
                backoff.handle_connected(at(&step["connected"]));
            } else if !step["lost"].is_null() {
                backoff.handle_lost(at(&step["lost"]));
            } else {
                let mut numbers = Fraction { value: step["u"].as_f64(), draws: 0 };
                let delay = backoff.next_delay(&mut numbers, seconds(&step["spread"]), None);
                let drawn = numbers.draws > 0;
                assert_eq!(drawn, numbers.value.is_some(), "{}: {step}: drawn", vector["name"]);
                let close = match (delay, seconds(&step["delay"])) {
                    (Some(delay), Some(expected)) => delay.abs_diff(expected) <= Duration::from_micros(1),
                    (delay, expected) => delay == expected,
                };
                assert!(close, "{}: {step}: {delay:?}", vector["name"]);
                delays += 1;
            }
        }
    }
    assert!(delays > 20);
}
