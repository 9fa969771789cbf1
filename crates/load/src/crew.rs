//! Threads, and processes where one has too few file descriptors, that hold the connections of a run.
//! Whoever directs them sets the phase, the wanted connections and the rate, and takes samples.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::pool::{Handler, Link, Plan, Pool};
use crate::process::Tree;
use crate::talk::{Script, Talk};
use crate::ws::opcode;

/// Links of one thread that may be opening at a time.
const OPENING: usize = 64;
/// How often a thread hands over what it has counted.
const PUBLISH: Duration = Duration::from_millis(100);
/// Errors that are kept word for word.
const ERRORS: usize = 5;

/// What is done with the connections.
#[derive(Clone, Debug)]
pub enum Scene {
    /// Messages there and back, or none: a window of 0.
    Talk(Script),
    /// Connect, upgrade, close, again.
    Handshake,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connections open.
    Opening = 0,
    /// Messages flow, nothing is counted.
    Warm = 1,
    /// Messages are counted.
    Measure = 2,
    /// Threads end.
    Over = 3,
}

impl From<u8> for Phase {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Opening,
            1 => Self::Warm,
            2 => Self::Measure,
            _ => Self::Over,
        }
    }
}

/// Nanoseconds with three digits, up to a minute; what takes longer counts as a minute.
pub fn histogram() -> Histogram<u64> {
    // The bounds are constants that the crate accepts.
    Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// What was counted since the sample before.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Connections open now.
    pub open: usize,
    /// Messages that came back (handshakes done) in the measured time.
    pub messages: u64,
    /// Connections that failed or ended by themselves.
    pub failed: u64,
    /// Bytes of WebSocket frames in the measured time, both ways.
    pub bytes: u64,
    /// Server's pings answered.
    pub beats: u64,
    /// Round trips, in nanoseconds.
    pub delays: Histogram<u64>,
    /// How much later than expected a ping of the server came, in nanoseconds.
    pub lateness: Histogram<u64>,
    /// The first errors.
    pub errors: Vec<String>,
    /// CPU time of this crew so far, in seconds.
    pub cpu: f64,
}

impl Default for Sample {
    fn default() -> Self {
        let (delays, lateness) = (histogram(), histogram());
        Self { open: 0, messages: 0, failed: 0, bytes: 0, beats: 0, delays, lateness, errors: Vec::new(), cpu: 0.0 }
    }
}

impl Sample {
    /// Adds what another crew, or a later sample, has counted; `open` and `cpu` are added too.
    pub fn add(&mut self, other: &Self) {
        self.open += other.open;
        self.cpu += other.cpu;
        self.count(other);
    }

    /// Adds all but what is true of one moment.
    pub fn count(&mut self, other: &Self) {
        self.messages += other.messages;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.beats += other.beats;
        // Both have the same bounds.
        let _ = self.delays.add(&other.delays);
        let _ = self.lateness.add(&other.lateness);
        for error in &other.errors {
            if self.errors.len() < ERRORS {
                self.errors.push(error.clone());
            }
        }
    }

    fn to_json(&self) -> Value {
        let list = |histogram: &Histogram<u64>| -> Vec<[u64; 2]> {
            histogram.iter_recorded().map(|step| [step.value_iterated_to(), step.count_at_value()]).collect()
        };
        json!({
            "open": self.open, "messages": self.messages, "failed": self.failed, "bytes": self.bytes, "beats": self.beats,
            "delays": list(&self.delays), "lateness": list(&self.lateness), "errors": self.errors, "cpu": self.cpu,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_u64().with_context(|| format!("sample without {name}"));
        let read = |name: &str| {
            let mut read = histogram();
            for pair in value[name].as_array().into_iter().flatten() {
                let at = |index: usize| pair[index].as_u64().unwrap_or(0);
                read.saturating_record_n(at(0), at(1));
            }
            read
        };
        let errors = value["errors"].as_array().into_iter().flatten();
        Ok(Self {
            open: number("open")? as usize,
            messages: number("messages")?,
            failed: number("failed")?,
            bytes: number("bytes")?,
            beats: number("beats")?,
            delays: read("delays"),
            lateness: read("lateness"),
            errors: errors.filter_map(|error| error.as_str().map(str::to_owned)).collect(),
            cpu: value["cpu"].as_f64().unwrap_or(0.0),
        })
    }
}

/// What the director wants, for all threads of one process.
#[derive(Debug, Default)]
struct Wanted {
    phase: AtomicU8,
    conns: AtomicUsize,
    /// Messages a second of all threads together; bits of an `f64`; 0: as fast as the window lets.
    rate: AtomicU64,
}

/// What one thread has counted since the sample before.
#[derive(Debug, Default)]
struct Board {
    counted: std::sync::Mutex<Sample>,
}

impl Board {
    fn hand_over(&self, fresh: &mut Sample) {
        let mut counted = self.counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        counted.count(fresh);
        counted.open = fresh.open;
        drop(counted);
        fresh.messages = 0;
        fresh.failed = 0;
        fresh.bytes = 0;
        fresh.beats = 0;
        fresh.delays.reset();
        fresh.lateness.reset();
        fresh.errors.clear();
    }

    fn take(&self) -> Sample {
        let mut counted = self.counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let taken = counted.clone();
        *counted = Sample { open: taken.open, ..Sample::default() };
        taken
    }
}

/// Threads of this process.
#[derive(Debug)]
pub struct Threads {
    wanted: Arc<Wanted>,
    boards: Vec<Arc<Board>>,
    handles: Vec<JoinHandle<Result<()>>>,
}

impl Threads {
    fn start(count: usize, plan: &Plan, scene: &Scene) -> Self {
        let wanted = Arc::<Wanted>::default();
        let (mut boards, mut handles) = (Vec::new(), Vec::new());
        for number in 0..count {
            let board = Arc::<Board>::default();
            boards.push(Arc::clone(&board));
            let worker = Worker { number, of: count, wanted: Arc::clone(&wanted), board };
            let (plan, scene) = (plan.clone(), scene.clone());
            handles.push(std::thread::spawn(move || match scene {
                Scene::Talk(script) => worker.talk(plan, script),
                Scene::Handshake => worker.handshake(plan),
            }));
        }
        Self { wanted, boards, handles }
    }

    fn sample(&self) -> Result<Sample> {
        let mut sum = Sample::default();
        for board in &self.boards {
            sum.add(&board.take());
        }
        sum.cpu = Tree::of(std::process::id()).cpu();
        ensure!(
            self.wanted.phase.load(Ordering::Relaxed) == Phase::Over as u8
                || self.handles.iter().all(|thread| !thread.is_finished()),
            "a thread of the generator ended early"
        );
        Ok(sum)
    }

    fn join(self) -> Result<()> {
        for thread in self.handles {
            thread.join().map_err(|_| anyhow!("a thread of the generator panicked"))??;
        }
        Ok(())
    }
}

/// A process of this program that was started with `--child`, driven by lines.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("a process of the generator is gone")
    }

    fn sample(&mut self) -> Result<Sample> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "a process of the generator ended early");
        Sample::from_json(&serde_json::from_str(&line)?)
    }
}

/// All who hold connections.
#[derive(Debug)]
pub enum Crew {
    /// In this process.
    Threads(Threads),
    /// In others.
    Helpers(Vec<Helper>),
}

impl Crew {
    /// `threads` in this process.
    pub fn threads(threads: usize, plan: &Plan, scene: &Scene) -> Self {
        Self::Threads(Threads::start(threads.max(1), plan, scene))
    }

    /// `count` processes of this program, which get `words` and then `--child N`.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn helpers(count: usize, words: &[String]) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut helpers = Vec::new();
        for number in 0..count {
            let mut child = Command::new(&program)
                .args(words)
                .args(["--child", &number.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("a process of the generator")?;
            let orders = child.stdin.take().context("pipe")?;
            let answers = BufReader::new(child.stdout.take().context("pipe")?);
            helpers.push(Helper { child, orders, answers });
        }
        Ok(Self::Helpers(helpers))
    }

    /// Goes on to `phase`.
    ///
    /// # Errors
    /// A helper is gone.
    pub fn phase(&mut self, phase: Phase) -> Result<()> {
        match self {
            Self::Threads(threads) => threads.wanted.phase.store(phase as u8, Ordering::Relaxed),
            Self::Helpers(helpers) => {
                for helper in helpers {
                    helper.order(&format!("phase {}", phase as u8))?;
                }
            }
        }
        Ok(())
    }

    /// Connections wanted from now on, all together.
    ///
    /// # Errors
    /// A helper is gone.
    pub fn conns(&mut self, conns: usize) -> Result<()> {
        match self {
            Self::Threads(threads) => threads.wanted.conns.store(conns, Ordering::Relaxed),
            Self::Helpers(helpers) => {
                let count = helpers.len();
                for (number, helper) in helpers.iter_mut().enumerate() {
                    helper.order(&format!("conns {}", share(conns, number, count)))?;
                }
            }
        }
        Ok(())
    }

    /// Messages a second from now on, all together; 0: as fast as the window lets.
    ///
    /// # Errors
    /// A helper is gone.
    pub fn rate(&mut self, rate: f64) -> Result<()> {
        match self {
            Self::Threads(threads) => threads.wanted.rate.store(rate.to_bits(), Ordering::Relaxed),
            Self::Helpers(helpers) => {
                let count = helpers.len() as f64;
                for helper in helpers {
                    helper.order(&format!("rate {}", rate / count))?;
                }
            }
        }
        Ok(())
    }

    /// What was counted since the sample before.
    ///
    /// # Errors
    /// A thread or helper is gone.
    pub fn sample(&mut self) -> Result<Sample> {
        match self {
            Self::Threads(threads) => threads.sample(),
            Self::Helpers(helpers) => {
                for helper in helpers.iter_mut() {
                    helper.order("sample")?;
                }
                let mut sum = Sample::default();
                for helper in helpers {
                    sum.add(&helper.sample()?);
                }
                // The helpers are children of this process.
                sum.cpu = Tree::of(std::process::id()).cpu();
                Ok(sum)
            }
        }
    }

    /// Ends all and waits for it.
    ///
    /// # Errors
    /// A thread or helper failed.
    pub fn end(mut self) -> Result<()> {
        self.phase(Phase::Over)?;
        match self {
            Self::Threads(threads) => threads.join(),
            Self::Helpers(helpers) => {
                for mut helper in helpers {
                    drop(helper.orders);
                    helper.child.wait()?;
                }
                Ok(())
            }
        }
    }

    /// What a process started with `--child` does: obeys the lines of stdin until its end.
    ///
    /// # Errors
    /// An order that is none, or a thread that failed.
    pub fn obey(mut self) -> Result<()> {
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let (word, value) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                "phase" => self.phase(Phase::from(value.parse::<u8>()?))?,
                "conns" => self.conns(value.parse()?)?,
                "rate" => self.rate(value.parse()?)?,
                "sample" => {
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "{}", self.sample()?.to_json())?;
                    out.flush()?;
                }
                _ => return Err(anyhow!("unknown order '{line}'")),
            }
        }
        self.end()
    }
}

/// What falls to number `number` when `all` are shared among `of`.
fn share(all: usize, number: usize, of: usize) -> usize {
    all / of + usize::from(number < all % of)
}

struct Worker {
    number: usize,
    of: usize,
    wanted: Arc<Wanted>,
    board: Arc<Board>,
}

impl Worker {
    fn phase(&self) -> Phase {
        Phase::from(self.wanted.phase.load(Ordering::Relaxed))
    }

    fn conns(&self) -> usize {
        share(self.wanted.conns.load(Ordering::Relaxed), self.number, self.of)
    }

    fn talk(self, plan: Plan, script: Script) -> Result<()> {
        let mut pool = Pool::new(plan)?;
        let mut talk = Talk::new(script, self.number == 0);
        let mut published = Instant::now();
        loop {
            let phase = self.phase();
            talk.enter(phase, &mut pool);
            if phase == Phase::Over {
                break;
            }
            let wanted = self.conns();
            while pool.len() < wanted && pool.opening() < OPENING {
                if let Err(error) = pool.connect(0, None) {
                    talk.counted.failed += 1;
                    talk.note(&format!("{error:#}"));
                    std::thread::sleep(Duration::from_millis(10));
                    break;
                }
            }
            talk.retire(pool.len().saturating_sub(wanted), &mut pool);
            let rate = f64::from_bits(self.wanted.rate.load(Ordering::Relaxed)) / self.of as f64;
            let wait = talk.pace(rate, &mut pool).min(Duration::from_millis(20));
            pool.turn(wait, &mut talk)?;
            if published.elapsed() >= PUBLISH {
                published = Instant::now();
                self.board.hand_over(&mut talk.counted);
            }
        }
        self.board.hand_over(&mut talk.counted);
        talk.close_all(&mut pool)?;
        Ok(())
    }

    fn handshake(self, plan: Plan) -> Result<()> {
        let mut pool = Pool::new(plan)?;
        let mut shake = Shake { counted: Sample::default(), measured: false };
        let mut published = Instant::now();
        while self.phase() != Phase::Over {
            shake.measured = self.phase() == Phase::Measure;
            while self.phase() >= Phase::Warm && pool.len() < self.conns() {
                if let Err(error) = pool.connect(0, None) {
                    shake.fail(&format!("{error:#}"));
                    std::thread::sleep(Duration::from_millis(10));
                    break;
                }
            }
            pool.turn(Duration::from_millis(5), &mut shake)?;
            shake.counted.open = pool.len() - pool.opening();
            if published.elapsed() >= PUBLISH {
                published = Instant::now();
                self.board.hand_over(&mut shake.counted);
            }
        }
        pool.reset_all();
        self.board.hand_over(&mut shake.counted);
        Ok(())
    }
}

/// Connect, upgrade, close.
struct Shake {
    counted: Sample,
    measured: bool,
}

impl Shake {
    fn fail(&mut self, error: &str) {
        self.counted.failed += 1;
        if self.counted.errors.len() < ERRORS {
            self.counted.errors.push(error.to_owned());
        }
    }
}

impl Handler for Shake {
    fn opened(&mut self, link: &mut Link) -> Result<()> {
        if self.measured {
            self.counted.delays.saturating_record(link.begun.elapsed().as_nanos() as u64);
        }
        link.put(opcode::CLOSE, &1000_u16.to_be_bytes())
    }

    fn received(&mut self, link: &mut Link, bytes: &[u8]) -> Result<usize> {
        let Some(frame) = crate::train::parse(bytes)? else { return Ok(0) };
        if frame.opcode == opcode::CLOSE {
            link.finish();
            self.counted.messages += u64::from(self.measured);
        }
        Ok(frame.length)
    }

    fn lost(&mut self, _: &Link, why: Option<anyhow::Error>) {
        if let Some(why) = why {
            self.fail(&format!("{why:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!((0..3).map(|number| share(10, number, 3)).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!((0..3).map(|number| share(2, number, 3)).sum::<usize>(), 2);
    }

    #[test]
    fn samples_survive_the_pipe() {
        let mut sample = Sample { open: 3, messages: 7, failed: 1, beats: 2, cpu: 0.25, ..Sample::default() };
        sample.errors.push("end of stream".to_owned());
        for delay in [1_000, 20_000, 20_000, 5_000_000] {
            sample.delays.saturating_record(delay);
        }
        let back = Sample::from_json(&sample.to_json()).unwrap();
        assert_eq!(back.open, 3);
        assert_eq!(back.errors, sample.errors);
        assert_eq!(back.delays.len(), 4);
        assert_eq!(back.delays.value_at_quantile(0.5), sample.delays.value_at_quantile(0.5));
        let mut sum = Sample::default();
        sum.add(&back);
        sum.add(&sample);
        assert_eq!((sum.open, sum.messages, sum.failed, sum.delays.len()), (6, 14, 2, 8));
    }
}
