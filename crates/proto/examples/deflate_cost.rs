//! What permessage-deflate costs: memory of each codec, CPU and bytes of each message.
//!
//!     cargo run --release -p lifeline-proto --example deflate_cost
#![allow(clippy::print_stdout)]

use std::fmt::Write as _;
use std::hint::black_box;

use lifeline_proto::deflate::{Deflater, INFLATER_SIZE, Inflater, Output, compressor_size};

/// CPU time of this thread, in nanoseconds.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number")
}

/// Resident memory, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

/// What an application may send: JSON whose numbers differ from message to message.
fn messages(size: usize) -> Vec<Vec<u8>> {
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    // More than a window holds, so that none comes again in it.
    (0..(1 << 19) / size as u64)
        .map(|_| {
            let mut text = String::from("[");
            while text.len() < size {
                let kinds = ["order", "trade", "quote", "status"];
                let (id, kind) = (next(10_000_000), kinds[next(4) as usize]);
                let (price, amount, user) = (next(100_000), next(500), next(100_000));
                let _ = write!(
                    text,
                    "{{\"id\":{id},\"type\":\"{kind}\",\"price\":{}.{:02},\"amount\":{amount},\"user\":\"u{user:05}\",\
                     \"time\":\"2026-11-22T10:{:02}:{:02}Z\"}},",
                    price / 100,
                    price % 100,
                    next(60),
                    next(60)
                );
            }
            text.truncate(size);
            text.into_bytes()
        })
        .collect()
}

fn main() {
    println!("memory of a codec that has been used, KiB");
    let long = messages(65_536).concat();
    // What is given back would be taken for the next.
    let mut kept = (Vec::new(), Vec::new());
    for bits in 9..=15 {
        let before = resident();
        let mut out = Vec::with_capacity(8 << 20);
        let many: Vec<_> = (0..32)
            .map(|_| {
                let mut deflater = Deflater::new(6, bits);
                out.clear();
                deflater.compress(&[&long[..400_000]], &mut out);
                deflater
            })
            .collect();
        let deflater = (resident() - before) / many.len();
        kept.0.extend(many);
        let before = resident();
        let many: Vec<_> = (0..64)
            .map(|_| {
                let mut inflater = Inflater::new();
                let mut buffer = Vec::with_capacity(1 << 20);
                inflater.push(&out, &mut Output { buffer: &mut buffer, most: 1 << 20 }).expect("inflated");
                inflater
            })
            .collect();
        let inflater = (resident() - before) / many.len();
        kept.1.extend(many);
        println!(
            "window bits {bits:2}: compressor {} (charged {}), decompressor {} (charged {})",
            deflater / 1024,
            compressor_size(bits) / 1024,
            inflater / 1024,
            INFLATER_SIZE / 1024
        );
    }
    drop(kept);
    println!("size | level | bits | takeover | bytes | compress us | decompress us");
    for size in [128, 256, 512, 1024, 4096, 16_384, 65_536] {
        let messages = messages(size);
        for (level, bits) in [(1, 15), (2, 15), (3, 15), (4, 15), (6, 15), (9, 15), (6, 12), (6, 9), (1, 9)] {
            for takeover in [false, true] {
                let mut deflater = Deflater::new(level, bits);
                let rounds = 4;
                let mut wires = vec![Vec::new(); messages.len()];
                let (mut bytes, start) = (0, cpu());
                for _ in 0..rounds {
                    bytes = 0;
                    for (message, wire) in messages.iter().zip(&mut wires) {
                        wire.clear();
                        deflater.compress(&[message], wire);
                        if !takeover {
                            deflater.reset();
                        }
                        bytes += wire.len();
                    }
                }
                let compress = cpu() - start;
                let (mut inflater, mut buffer) = (Inflater::new(), Vec::with_capacity(size));
                deflater.reset();
                for (message, wire) in messages.iter().zip(&mut wires) {
                    wire.clear();
                    deflater.compress(&[message], wire);
                    if !takeover {
                        deflater.reset();
                    }
                }
                let start = cpu();
                for _ in 0..rounds {
                    for wire in &wires {
                        buffer.clear();
                        let mut output = Output { buffer: &mut buffer, most: size };
                        inflater.push(wire, &mut output).expect("inflated");
                        inflater.finish(takeover, &mut output).expect("finished");
                        black_box(&buffer);
                    }
                    // The first refers to none.
                    inflater.reset();
                }
                let decompress = cpu() - start;
                let each = |time: u64| time as f64 / 1000.0 / (rounds * messages.len()) as f64;
                println!(
                    "{size} | {level} | {bits} | {takeover} | {} | {:.1} | {:.1}",
                    bytes / messages.len(),
                    each(compress),
                    each(decompress)
                );
            }
        }
    }
}
