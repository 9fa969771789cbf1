//! Directs a crew through a run and gathers what it shows.

use std::fmt::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::crew::{Crew, Phase, Sample};
use crate::process::{Tree, Usage, machine, machine_cpu};
use crate::progress::Progress;

/// Longest time without one more connection open.
const STUCK: Duration = Duration::from_secs(30);
/// Threads hand over what they counted more often than this.
const SETTLE: Duration = Duration::from_millis(250);
/// Above this share of one core for each thread the generator may be what limits the rate.
const BUSY: f64 = 0.9;

/// One second of a run.
#[derive(Clone, Debug, Default)]
pub struct Point {
    /// Seconds since the start.
    pub at: f64,
    /// Connections open.
    pub open: usize,
    /// Messages a second.
    pub rate: f64,
    /// Median, 99th percentile and maximum of the delays, in milliseconds.
    pub delays: [f64; 3],
    /// Cores that the server used.
    pub server_cores: f64,
    /// Cores that the generator used.
    pub own_cores: f64,
    /// Proportional set size of the server, in bytes.
    pub pss: u64,
}

/// Part of a staged run: connections and rate go in a straight line to these.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// Its length.
    pub length: Duration,
    /// Connections at its end.
    pub conns: usize,
    /// Messages a second at its end; 0: as fast as the window lets.
    pub rate: f64,
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Course {
    /// Connections; handshakes at a time.
    pub conns: usize,
    /// Messages a second; 0: as fast as the window lets.
    pub rate: f64,
    /// Wait until all are open first.
    pub open_first: bool,
    /// Time that is not counted.
    pub warm: Duration,
    /// Time that is.
    pub length: Duration,
    /// The server's process.
    pub server: Option<Tree>,
    /// Look at the server's memory every second, too.
    pub memory: bool,
    /// Threads of all processes of the generator.
    pub threads: usize,
    /// Progress on a terminal.
    pub show: bool,
}

/// What a run has shown.
#[derive(Debug)]
pub struct Outcome {
    /// All that was counted.
    pub total: Sample,
    /// Measured time, in seconds.
    pub seconds: f64,
    /// Connections wanted.
    pub conns: usize,
    /// Seconds until all were open.
    pub opening: f64,
    /// What the server used and held before, with all connections open, and at the end.
    pub server: Option<[Usage; 3]>,
    /// CPU seconds of the server in the measured time.
    pub server_cpu: f64,
    /// CPU seconds of the generator in the measured time.
    pub own_cpu: f64,
    /// CPU seconds of everybody in the measured time.
    pub machine_cpu: f64,
    /// Threads of the generator.
    pub threads: usize,
    /// Second by second.
    pub points: Vec<Point>,
}

/// Opens, warms up, measures, ends.
///
/// # Errors
/// The generator itself failed, or connections did not open.
pub fn steady(mut crew: Crew, course: &Course) -> Result<Outcome> {
    let outcome = direct(&mut crew, course);
    let ended = crew.end();
    let outcome = outcome?;
    ended?;
    Ok(outcome)
}

fn direct(crew: &mut Crew, course: &Course) -> Result<Outcome> {
    let mut progress = Progress::new(course.show);
    let usage = || course.server.map(Tree::usage);
    let before = usage();
    let start = Instant::now();
    let mut total = Sample::default();
    crew.rate(course.rate)?;
    crew.conns(course.conns)?;
    if course.open_first {
        open(crew, course.conns, &mut total, &mut progress)?;
    }
    let opening = start.elapsed().as_secs_f64();
    if course.open_first && course.server.is_some() {
        // What the last handshakes left behind is gone then.
        sleep(SETTLE);
    }
    let opened = usage();
    crew.phase(Phase::Warm)?;
    sleep(course.warm);
    let fresh = crew.sample()?;
    total.failed += fresh.failed;
    total.errors.extend(fresh.errors);

    let watch = Watch::start(course.server, course.memory, fresh.cpu);
    crew.phase(Phase::Measure)?;
    let mut watched = watch;
    let length = course.length.as_secs_f64();
    loop {
        let left = course.length.saturating_sub(watched.begun.elapsed());
        if left.is_zero() {
            break;
        }
        sleep(left.min(Duration::from_secs(1)));
        if left > Duration::from_secs(1) {
            let fresh = crew.sample()?;
            watched.point(&fresh);
            total.count(&fresh);
            total.open = fresh.open;
            let at = watched.begun.elapsed().as_secs_f64();
            progress.show(at / length, &watched.points);
        }
    }
    let seconds = watched.begun.elapsed().as_secs_f64();
    let server_cpu = course.server.map_or(0.0, Tree::cpu) - watched.server_start;
    let machine_cpu = machine_cpu() - watched.machine_start;
    let own_cpu = finish(crew, &mut watched, &mut total, seconds, server_cpu)?;
    let ended = usage();
    progress.done();
    let server = match (before, opened, ended) {
        (Some(before), Some(opened), Some(ended)) => Some([before, opened, ended]),
        _ => None,
    };
    Ok(Outcome {
        total,
        seconds,
        conns: course.conns,
        opening,
        server,
        server_cpu,
        own_cpu,
        machine_cpu,
        threads: course.threads,
        points: watched.points,
    })
}

fn open(crew: &mut Crew, conns: usize, total: &mut Sample, progress: &mut Progress) -> Result<()> {
    let (mut most, mut since) = (0, Instant::now());
    loop {
        let fresh = crew.sample()?;
        total.count(&fresh);
        if fresh.open >= conns {
            return Ok(());
        }
        if fresh.open > most {
            (most, since) = (fresh.open, Instant::now());
        }
        let first = total.errors.first().map_or("no error", String::as_str);
        ensure!(since.elapsed() < STUCK && total.failed < 1000, "{most} of {conns} connections opened; {first}");
        progress.opening(fresh.open, conns);
        sleep(Duration::from_millis(50));
    }
}

/// Goes through `stages`; everything counts.
///
/// # Errors
/// The generator itself failed.
pub fn staged(mut crew: Crew, stages: &[Stage], course: &Course) -> Result<Outcome> {
    let outcome = climb(&mut crew, stages, course);
    let ended = crew.end();
    let outcome = outcome?;
    ended?;
    Ok(outcome)
}

fn climb(crew: &mut Crew, stages: &[Stage], course: &Course) -> Result<Outcome> {
    const STEP: Duration = Duration::from_millis(100);
    let mut progress = Progress::new(course.show);
    let before = course.server.map(Tree::usage);
    let all: Duration = stages.iter().map(|stage| stage.length).sum();
    let mut total = Sample::default();
    let own = crew.sample()?.cpu;
    crew.phase(Phase::Measure)?;
    let mut watched = Watch::start(course.server, course.memory, own);
    let (mut from, mut behind) = ((0.0, stages.first().context("no stages")?.rate), Duration::ZERO);
    let mut opened = None;
    let mut next = Duration::from_secs(1);
    for stage in stages {
        loop {
            let at = watched.begun.elapsed();
            let share = (at.saturating_sub(behind)).as_secs_f64() / stage.length.as_secs_f64().max(1e-9);
            let part = |from: f64, to: f64| from + (to - from) * share.min(1.0);
            crew.conns(part(from.0, stage.conns as f64).round() as usize)?;
            crew.rate(part(from.1, stage.rate))?;
            if at >= next {
                next += Duration::from_secs(1);
                let fresh = crew.sample()?;
                watched.point(&fresh);
                total.count(&fresh);
                total.open = fresh.open;
                progress.show(at.as_secs_f64() / all.as_secs_f64(), &watched.points);
            }
            if share >= 1.0 {
                break;
            }
            sleep(STEP);
        }
        from = (stage.conns as f64, stage.rate);
        behind += stage.length;
        opened = opened.or_else(|| course.server.map(Tree::usage));
    }
    let seconds = watched.begun.elapsed().as_secs_f64();
    let server_cpu = course.server.map_or(0.0, Tree::cpu) - watched.server_start;
    let machine_cpu = machine_cpu() - watched.machine_start;
    let own_cpu = finish(crew, &mut watched, &mut total, seconds, server_cpu)?;
    let ended = course.server.map(Tree::usage);
    progress.done();
    let server = match (before, opened, ended) {
        (Some(before), Some(opened), Some(ended)) => Some([before, opened, ended]),
        _ => None,
    };
    Ok(Outcome {
        total,
        seconds,
        conns: stages.iter().map(|stage| stage.conns).max().unwrap_or(0),
        opening: 0.0,
        server,
        server_cpu,
        own_cpu,
        machine_cpu,
        threads: course.threads,
        points: watched.points,
    })
}

/// Ends the measured time and gathers what threads have not handed over; returns the generator's CPU time.
fn finish(crew: &mut Crew, watched: &mut Watch, total: &mut Sample, seconds: f64, server_cpu: f64) -> Result<f64> {
    let mut last = crew.sample()?;
    crew.phase(Phase::Warm)?;
    sleep(SETTLE);
    let rest = crew.sample()?;
    last.count(&rest);
    last.open = rest.open;
    let usage = Usage { cpu: watched.server_start + server_cpu, ..watched.usage() };
    // Of less than that a rate says nothing.
    if watched.points.is_empty() || seconds - watched.last.0 >= 0.5 {
        watched.add(&last, seconds, usage);
    }
    total.count(&last);
    total.open = last.open;
    Ok(last.cpu - watched.own_start)
}

struct Watch {
    begun: Instant,
    server: Option<Tree>,
    memory: bool,
    server_start: f64,
    own_start: f64,
    machine_start: f64,
    points: Vec<Point>,
    last: (f64, f64, f64),
}

impl Watch {
    fn start(server: Option<Tree>, memory: bool, own: f64) -> Self {
        let cpu = server.map_or(0.0, Tree::cpu);
        Self {
            begun: Instant::now(),
            server,
            memory,
            server_start: cpu,
            own_start: own,
            machine_start: machine_cpu(),
            points: Vec::new(),
            last: (0.0, cpu, own),
        }
    }

    fn usage(&self) -> Usage {
        match self.server {
            Some(tree) if self.memory => tree.usage(),
            Some(tree) => Usage { cpu: tree.cpu(), ..Usage::default() },
            None => Usage::default(),
        }
    }

    fn point(&mut self, fresh: &Sample) {
        self.add(fresh, self.begun.elapsed().as_secs_f64(), self.usage());
    }

    fn add(&mut self, fresh: &Sample, at: f64, usage: Usage) {
        let (last, server, own) = self.last;
        let seconds = (at - last).max(1e-3);
        self.last = (at, usage.cpu, fresh.cpu);
        self.points.push(Point {
            at,
            open: fresh.open,
            rate: fresh.messages as f64 / seconds,
            delays: [0.5, 0.99, 1.0].map(|share| milliseconds(&fresh.delays, share)),
            server_cores: (usage.cpu - server).max(0.0) / seconds,
            own_cores: (fresh.cpu - own).max(0.0) / seconds,
            pss: usage.pss,
        });
    }
}

/// A quantile, from nanoseconds.
pub fn milliseconds(delays: &Histogram<u64>, share: f64) -> f64 {
    if delays.is_empty() { 0.0 } else { delays.value_at_quantile(share) as f64 / 1e6 }
}

/// Quantiles as JSON, in milliseconds.
pub fn quantiles(delays: &Histogram<u64>) -> Value {
    let mut map = Map::new();
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        map.insert(name.to_owned(), json!(milliseconds(delays, share)));
    }
    map.insert("count".to_owned(), json!(delays.len()));
    Value::Object(map)
}

impl Outcome {
    /// The generator may have been the limit?
    pub fn limited(&self) -> bool {
        self.own_cpu / self.seconds >= BUSY * self.threads as f64
    }

    /// CPU seconds of the server a million messages.
    pub fn cpu_per_million(&self) -> f64 {
        if self.total.messages == 0 { 0.0 } else { self.server_cpu * 1e6 / self.total.messages as f64 }
    }

    /// All of it.
    pub fn to_json(&self) -> Value {
        let mut report = json!({
            "conns": self.conns,
            "open": self.total.open,
            "failed": self.total.failed,
            "errors": self.total.errors,
            "opening_seconds": self.opening,
            "seconds": self.seconds,
            "messages": self.total.messages,
            "messages_per_second": self.total.messages as f64 / self.seconds,
            "bytes_per_message": self.total.bytes as f64 / self.total.messages.max(1) as f64,
            "delay_ms": quantiles(&self.total.delays),
            "generator_cores": self.own_cpu / self.seconds,
            "generator_threads": self.threads,
            "generator_limited": self.limited(),
            "beats": self.total.beats,
            "machine": machine(),
        });
        if !self.total.lateness.is_empty() {
            report["beat_lateness_ms"] = quantiles(&self.total.lateness);
        }
        if let Some([before, opened, ended]) = self.server {
            let each = |now: Usage| (now.own as f64 - before.own as f64) / self.conns.max(1) as f64;
            report["server"] = json!({
                "cpu_seconds": self.server_cpu,
                "cores": self.server_cpu / self.seconds,
                "cpu_seconds_per_million": self.cpu_per_million(),
                "opening_cpu_seconds": opened.cpu - before.cpu,
                "pss_before": before.pss, "pss_open": opened.pss, "pss_end": ended.pss,
                "rss_before": before.rss, "rss_open": opened.rss, "rss_end": ended.rss,
                "pss_per_connection": each(opened),
                "pss_per_connection_end": each(ended),
                "processes": ended.processes,
            });
            let others = self.machine_cpu - self.server_cpu - self.own_cpu;
            report["other_cores"] = json!((others / self.seconds).max(0.0));
        }
        report
    }

    /// The same for people.
    pub fn to_text(&self) -> String {
        let at = |share| milliseconds(&self.total.delays, share);
        let mut text = format!(
            "connections   {} open of {}, {} failed\nmessages      {} in {:.1} s, {:.0}/s\n\
             delay         p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, max {:.3} ms\n\
             generator     {:.2} cores of {} threads{}",
            self.total.open,
            self.conns,
            self.total.failed,
            self.total.messages,
            self.seconds,
            self.total.messages as f64 / self.seconds,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            self.own_cpu / self.seconds,
            self.threads,
            if self.limited() { ": the limit of this run" } else { "" },
        );
        if let Some([before, opened, ended]) = self.server {
            let _ = write!(
                text,
                "\nserver        {:.2} cores, {:.2} CPU s a million messages; PSS {:.1} -> {:.1} -> {:.1} MiB, {:.0} B a connection",
                self.server_cpu / self.seconds,
                self.cpu_per_million(),
                mib(before.pss),
                mib(opened.pss),
                mib(ended.pss),
                (ended.own as f64 - before.own as f64) / self.conns.max(1) as f64,
            );
        }
        if self.total.beats > 0 {
            let late = |share| milliseconds(&self.total.lateness, share);
            let _ = write!(
                text,
                "\nbeats         {}; late by p50 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
                self.total.beats,
                late(0.5),
                late(0.999),
                late(1.0)
            );
        }
        for error in &self.total.errors {
            let _ = write!(text, "\nerror         {error}");
        }
        text
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
