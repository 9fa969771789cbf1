//! Durable appends a second: `appends DIRECTORY [SECONDS]`. Prints one JSON line for each size of a commit.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lifeline_store::{Config, Log, StoreError};

const PAYLOAD: usize = 256;

#[allow(clippy::print_stdout)]
fn main() -> Result<(), StoreError> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(|| std::env::temp_dir().join("lifeline-appends"), PathBuf::from);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2.0);
    for batch in [1usize, 16, 256] {
        let _ = std::fs::remove_dir_all(&directory);
        let (log, _) = Log::open(&Config::new(&directory))?;
        let (data, mut latencies) = (vec![b'x'; PAYLOAD], Vec::new());
        let (start, cpu) = (Instant::now(), cpu_time());
        while start.elapsed().as_secs_f64() < seconds {
            let before = Instant::now();
            let first = log.append(std::iter::repeat_n((&b"prefix"[..], &data[..]), batch))?;
            log.sync(first + batch as u64 - 1)?;
            latencies.push(before.elapsed());
        }
        let (elapsed, cpu) = (start.elapsed().as_secs_f64(), cpu_time().saturating_sub(cpu));
        latencies.sort_unstable();
        let records = log.stats().records;
        let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize].as_micros();
        println!(
            "{{\"batch\": {batch}, \"recordsPerSecond\": {:.0}, \"p50us\": {}, \"p99us\": {}, \"cpuUsPerRecord\": {:.2}, \
             \"bytesPerRecord\": {:.1}}}",
            records as f64 / elapsed,
            at(0.5),
            at(0.99),
            cpu.as_secs_f64() * 1e6 / records as f64,
            log.stats().bytes_written as f64 / records as f64,
        );
        let last = log.last_index();
        let stats = log.stats();
        log.close()?;
        drop(log);
        let before = Instant::now();
        let (log, opened) = Log::open(&Config::new(&directory))?;
        eprintln!(
            "  opened {} records, {} bytes on disk, in {} ms; {} fsyncs",
            opened.records.len(),
            stats.bytes_on_disk,
            before.elapsed().as_millis(),
            stats.fsyncs
        );
        log.discard(last)?;
        log.close()?;
    }
    let _ = std::fs::remove_dir_all(&directory);
    Ok(())
}

/// User and system, of all threads.
fn cpu_time() -> Duration {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(usage.tv_sec.unsigned_abs(), usage.tv_nsec as u32)
}
