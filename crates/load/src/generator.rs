//! The load generator's sub-commands.

use std::io::{BufRead, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::args::Args;
use crate::broadcast::Broadcast;
use crate::crew::{Crew, Scene};
use crate::losses::{Blocked, Reconnect};
use crate::numbers::{Numbers, Order};
use crate::pool::{Deflate, Plan};
use crate::process::Tree;
use crate::profile::Profile;
use crate::report::html;
use crate::resume::Resume;
use crate::run::{Course, Outcome, staged, steady};
use crate::talk::Script;
use crate::train::Train;
use crate::ws::Url;

/// Sockets that one process may have with the usual limit of 20,000 files.
const SOCKETS: usize = 19_000;
/// More connections than this want more than one own address: of its 28,232 ports, those that just ended keep theirs a minute.
const PORTS: usize = 5000;

/// What the sub-commands take.
pub const HELP: &str = "\
lifeline-load echo --secs S ...      the load generator: messages there and back, as fast as the window lets
    [--conns N] [--window N] [--size BYTES] [--warm S] [--rate N] [--text]
    [--lifeline] [--compress [--takeover]]
    --rate: N messages a second all together, each timed from when it was due.
    --lifeline: speak lifeline.v1; messages are items and the stream, acknowledged both ways.
    --compress: permessage-deflate; messages are JSON. --takeover: with context takeover.
lifeline-load idle --conns N --hold S [--beat S] [--order TEXT] [--lifeline] [--compress [--takeover]]
    Connections that only answer pings. --beat: the server's heartbeat.interval, to tell how late its
    pings were. --order: a text message that one of them sends first.
lifeline-load broadcast --conns N [--window N] [--size BYTES] [--secs S] [--warm S]
                        [--subscribe PATH] [--publish PATH] [--lifeline] [--compress]
    Subscribers connect to /subscribe; what comes on /publish goes to all of them. Counts deliveries.
    --lifeline, --compress: the subscribers speak it, the publisher does not.
lifeline-load resume [--resumes N] [--messages N] [--size BYTES]
    A session has --messages (1000) of --size (100) that are never acknowledged; it is resumed --resumes
    (200) times, one after another, each timed from connect() to the end of the replay.
lifeline-load handshake [--secs S] [--warm S] [--concurrency N]
    Connect, upgrade, close, again.
lifeline-load reconnect --conns N [--retry S] [--concurrency N] [--timeout S]
    Prints 'ready' when all are open; a line on stdin says that the server is being restarted now.
lifeline-load blocked --conns N --order TEXT [--at S] [--secs S] [--every S] [--silent N]
    A peer sends the order that makes the application block at --at; the others ping each --every
    seconds (0: only answer), the first --silent answer nothing.
lifeline-load numbers --conns N [--window N] [--size BYTES] [--every S] [--patience S]
    Each sends a numbered message each --every seconds (0.1), up to --window (8) unanswered, and expects it back; one
    more when there was no answer for --patience seconds (2). Prints 'ready' when all are open, and for the line
    'count' on stdin what was counted so far. At the end of stdin each sends one more, and ends when that is answered or
    --timeout over: counts what was lost (not answered, but a later one was), reordered, repeated, changed, closed.
    Exit code 1: anything but losses.
lifeline-load run PROFILE.toml|PROFILE.json
    url, size, text, window, threads, sources; [[stages]] of seconds, conns and rate at their end;
    [thresholds] such as p99_ms = \"< 50\", failed = \"== 0\". Exit code 1: one was missed.
lifeline-load serve [--listen ADDRESS] [--size BYTES] [--text]
    A server for measuring clients. Prints 'listening ADDRESS'. /flood: messages without end; /cut: RST a
    moment after the upgrade; any other path: reads and answers nothing.

All but serve: --url URL [--threads N] [--processes N] [--sources N] [--server-pid PID] [--json]
[--report FILE.html] [--timeout S]. --server-pid: CPU and memory of that process and its children.
";

struct Common {
    url: Option<Url>,
    threads: usize,
    processes: usize,
    sources: Option<u8>,
    server: Option<Tree>,
    json: bool,
    report: Option<PathBuf>,
    timeout: Duration,
    child: Option<usize>,
}

impl Common {
    fn take(args: &mut Args) -> Result<Self> {
        let url: String = args.or("url", String::new())?;
        let server: u32 = args.or("server-pid", 0)?;
        let report: String = args.or("report", String::new())?;
        let sources: i16 = args.or("sources", -1)?;
        let child: i64 = args.or("child", -1)?;
        Ok(Self {
            url: if url.is_empty() { None } else { Some(url.parse()?) },
            threads: args.or("threads", 1)?,
            processes: args.or("processes", 0)?,
            sources: if sources < 0 { None } else { Some(u8::try_from(sources).context("--sources: 0 to 250")?) },
            server: (server > 0).then(|| Tree::of(server)),
            json: args.flag("json"),
            report: (!report.is_empty()).then(|| PathBuf::from(report)),
            timeout: seconds(args, "timeout", 10.0)?,
            child: usize::try_from(child).ok(),
        })
    }

    fn plan(&self, sources: u8) -> Result<Plan> {
        let url = self.url.as_ref().context("--url is missing")?;
        let sources = self.sources.unwrap_or(sources).min(250);
        let mut plan = Plan::new(url, sources, self.timeout)?;
        // Helpers use addresses of their own as far as there are any.
        plan.first_source = u8::try_from(self.child.unwrap_or(0) * usize::from(sources) % 250).unwrap_or(0);
        Ok(plan)
    }

    /// Runs `scene` in this process or in helpers; none if this is a helper.
    fn crew(&self, plan: &Plan, scene: &Scene, conns: usize) -> Result<Option<(Crew, usize)>> {
        let processes = if self.processes > 0 { self.processes } else { conns.div_ceil(SOCKETS).max(1) };
        if self.child.is_some() {
            Crew::threads(self.threads, plan, scene).obey()?;
            return Ok(None);
        }
        if processes == 1 {
            return Ok(Some((Crew::threads(self.threads, plan, scene), self.threads.max(1))));
        }
        let words: Vec<_> = std::env::args().skip(1).collect();
        Ok(Some((Crew::helpers(processes, &words)?, processes * self.threads.max(1))))
    }

    fn show(&self, outcome: &Outcome, verdicts: &[(String, f64, bool)]) -> Result<ExitCode> {
        if self.json {
            let mut report = outcome.to_json();
            if !verdicts.is_empty() {
                let list = verdicts.iter().map(
                    |(text, measured, met)| serde_json::json!({ "threshold": text, "measured": measured, "met": met }),
                );
                report["thresholds"] = list.collect();
            }
            crate::say(&report.to_string());
        } else {
            crate::say(&outcome.to_text());
            for (text, measured, met) in verdicts {
                crate::say(&format!("{}  {text}: {measured:.3}", if *met { "met   " } else { "missed" }));
            }
        }
        if let Some(path) = &self.report {
            let title = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
            std::fs::write(path, html(&title, outcome, verdicts)).with_context(|| path.display().to_string())?;
        }
        let good =
            outcome.total.failed == 0 && verdicts.is_empty() || !verdicts.is_empty() && verdicts.iter().all(|v| v.2);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    fn course(&self, conns: usize, threads: usize) -> Course {
        Course {
            conns,
            rate: 0.0,
            open_first: true,
            warm: Duration::ZERO,
            length: Duration::ZERO,
            server: self.server,
            memory: self.report.is_some(),
            threads,
            show: !self.json || std::io::stderr().is_terminal(),
        }
    }

    fn only_json(&self, report: &Value) {
        if self.json {
            crate::say(&report.to_string());
        } else {
            crate::say(&serde_json::to_string_pretty(report).unwrap_or_else(|_| report.to_string()));
        }
    }
}

/// Own addresses that so many connections want.
fn sources_for(conns: usize) -> u8 {
    if conns > PORTS { u8::try_from(conns / PORTS + 2).unwrap_or(250) } else { 0 }
}

/// The generator's `echo`; `--secs` tells it from the one that counts messages.
///
/// # Errors
/// Arguments, or the generator itself.
pub fn echo(mut args: Args) -> Result<ExitCode> {
    let common = Common::take(&mut args)?;
    let conns = args.or("conns", 1)?;
    let window: usize = args.or("window", 1)?;
    let size = args.or("size", 32)?;
    let length = seconds(&mut args, "secs", 5.0)?;
    let warm = seconds(&mut args, "warm", 1.0)?;
    let rate: f64 = args.or("rate", 0.0)?;
    let text = args.flag("text");
    let lifeline = args.flag("lifeline");
    let compress = args.flag("compress");
    let deflate = Deflate::of(compress, args.flag("takeover"))?;
    args.finish()?;
    ensure!(!(compress && lifeline), "--compress and --lifeline: one of them");
    ensure!(rate >= 0.0 && window > 0, "--rate {rate} --window {window}: a window of 1 or more, a rate of 0 or more");
    let train = Arc::new(if compress { Train::compressed(size) } else { Train::new(size, text) });
    let script = Script { train, window, beat: None, lifeline, order: None };
    let plan = common.plan(sources_for(conns))?.speaking(lifeline).compressing(deflate);
    let Some((crew, threads)) = common.crew(&plan, &Scene::Talk(script), conns)? else { return Ok(ExitCode::SUCCESS) };
    let course = Course { rate, warm, length, ..common.course(conns, threads) };
    common.show(&steady(crew, &course)?, &[])
}

/// Connections that only answer pings.
///
/// # Errors
/// Arguments, or the generator itself.
pub fn idle(mut args: Args) -> Result<ExitCode> {
    let common = Common::take(&mut args)?;
    let conns = args.required("conns")?;
    let length = seconds(&mut args, "hold", 5.0)?;
    let beat = seconds(&mut args, "beat", 0.0)?;
    let order: String = args.or("order", String::new())?;
    let lifeline = args.flag("lifeline");
    let deflate = Deflate::of(args.flag("compress"), args.flag("takeover"))?;
    args.finish()?;
    ensure!(!lifeline || order.is_empty(), "--order is for those without --lifeline");
    let first = common.child.unwrap_or(0) == 0;
    let script = Script {
        train: Arc::new(Train::new(32, true)),
        window: 0,
        beat: (!beat.is_zero()).then_some(beat),
        lifeline,
        order: (first && !order.is_empty()).then_some(order),
    };
    let plan = common.plan(sources_for(conns))?.speaking(lifeline).compressing(deflate);
    let Some((crew, threads)) = common.crew(&plan, &Scene::Talk(script), conns)? else { return Ok(ExitCode::SUCCESS) };
    let course = Course { length, ..common.course(conns, threads) };
    common.show(&steady(crew, &course)?, &[])
}

/// Connect, upgrade, close.
///
/// # Errors
/// Arguments, or the generator itself.
pub fn handshake(mut args: Args) -> Result<ExitCode> {
    let common = Common::take(&mut args)?;
    let conns = args.or("concurrency", 32)?;
    let length = seconds(&mut args, "secs", 5.0)?;
    let warm = seconds(&mut args, "warm", 1.0)?;
    args.finish()?;
    // Each address has some 28,000 ports, and each is in use for a minute after its connection.
    let plan = common.plan(60)?;
    let Some((crew, threads)) = common.crew(&plan, &Scene::Handshake, 1)? else { return Ok(ExitCode::SUCCESS) };
    let course = Course { open_first: false, warm, length, ..common.course(conns, threads) };
    common.show(&steady(crew, &course)?, &[])
}

/// One publisher, many subscribers.
///
/// # Errors
/// Arguments, or a message that did not reach everybody once and in order.
pub fn broadcast(mut args: Args) -> Result<ExitCode> {
    let common = Common::take(&mut args)?;
    let conns = args.required("conns")?;
    ensure!(conns < SOCKETS, "--conns {conns}: fewer than {SOCKETS}, this is one process");
    let broadcast = Broadcast {
        plan: common.plan(0)?,
        conns,
        size: args.or("size", 64)?,
        window: args.or("window", 1)?,
        subscribe: args.or("subscribe", "/subscribe".to_owned())?,
        publish: args.or("publish", "/publish".to_owned())?,
        warm: seconds(&mut args, "warm", 1.0)?,
        length: seconds(&mut args, "secs", 5.0)?,
        server: common.server,
        lifeline: args.flag("lifeline"),
        compress: args.flag("compress"),
    };
    args.finish()?;
    ensure!(!(broadcast.compress && broadcast.lifeline), "--compress and --lifeline: one of them");
    common.only_json(&broadcast.run()?);
    Ok(ExitCode::SUCCESS)
}

/// How long it takes to have again what was missed.
///
/// # Errors
/// Arguments, or a replay that was not whole.
pub fn resume(mut args: Args) -> Result<ExitCode> {
    let common = Common::take(&mut args)?;
    let resume = Resume {
        plan: common.plan(0)?.speaking(true),
        resumes: args.or("resumes", 200)?,
        messages: args.or("messages", 1000)?,
        size: args.or("size", 100)?,
        timeout: common.timeout,
        server: common.server,
    };
    args.finish()?;
    common.only_json(&resume.run()?);
    Ok(ExitCode::SUCCESS)
}

/// How soon everybody is back.
///
/// # Errors
/// Arguments, or somebody did not come back.
pub fn reconnect(mut args: Args) -> Result<ExitCode> {
    let common = Common::take(&mut args)?;
    let conns = args.required("conns")?;
    let reconnect = Reconnect {
        plan: common.plan(4)?,
        conns,
        retry: seconds(&mut args, "retry", 0.05)?,
        concurrency: args.or("concurrency", 256)?,
        timeout: Duration::from_secs(60).max(common.timeout),
    };
    args.finish()?;
    let restarted = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&restarted);
    std::thread::spawn(move || {
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).is_ok() {
            heard.store(true, Ordering::Relaxed);
        }
    });
    let report = reconnect.run(|| crate::say("ready"), || restarted.load(Ordering::Relaxed))?;
    common.only_json(&report);
    Ok(ExitCode::SUCCESS)
}

/// Peers that number their messages.
///
/// # Errors
/// Arguments, or not all connections opened.
pub fn numbers(mut args: Args) -> Result<ExitCode> {
    let common = Common::take(&mut args)?;
    let conns = args.required("conns")?;
    let numbers = Numbers {
        plan: common.plan(sources_for(conns))?,
        conns,
        window: args.or("window", 8)?,
        size: args.or("size", 32)?,
        every: seconds(&mut args, "every", 0.1)?,
        patience: seconds(&mut args, "patience", 2.0)?,
        timeout: common.timeout,
    };
    args.finish()?;
    ensure!(conns > 0 && numbers.window > 0, "--conns and --window: from 1");
    let (orders, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let order = if line == "count" { Ok(Order::Count) } else { Err(line) };
            if orders.send(order).is_err() {
                return;
            }
        }
        let _ = orders.send(Ok(Order::End));
    });
    let order = || match told.try_recv().ok()? {
        Ok(order) => Some(order),
        Err(line) => {
            crate::say(&format!("error unknown command '{line}'"));
            None
        }
    };
    let report = numbers.run(|| crate::say("ready"), order, |report| crate::say(&report.to_string()))?;
    common.only_json(&report);
    let faults = ["closes", "reordered", "duplicates", "unknown", "changed", "waiting"];
    Ok(if faults.iter().all(|name| report[*name] == 0) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Peers of a server whose application is blocked.
///
/// # Errors
/// Arguments, or not all connections opened.
pub fn blocked(mut args: Args) -> Result<ExitCode> {
    let common = Common::take(&mut args)?;
    let blocked = Blocked {
        plan: common.plan(0)?,
        conns: args.required("conns")?,
        every: seconds(&mut args, "every", 0.5)?,
        silent: args.or("silent", 0)?,
        at: seconds(&mut args, "at", 2.0)?,
        order: args.required("order")?,
        length: seconds(&mut args, "secs", 14.0)?,
    };
    args.finish()?;
    let report = blocked.run()?;
    common.only_json(&report);
    Ok(if report["dropped"] == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A server for measuring clients.
///
/// # Errors
/// Arguments, or the address cannot be bound.
pub fn serve(mut args: Args) -> Result<ExitCode> {
    let listen = args.or("listen", SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let size = args.or("size", 32)?;
    let text = args.flag("text");
    args.finish()?;
    crate::serve::serve(listen, size, text, |address| crate::say(&format!("listening {address}")))?;
    Ok(ExitCode::SUCCESS)
}

/// A staged profile.
///
/// # Errors
/// Arguments, the profile, or the generator itself.
pub fn profile(path: Option<String>, mut args: Args) -> Result<ExitCode> {
    let path = path.context("which profile? lifeline-load run PROFILE.toml")?;
    let profile = Profile::read(path.as_ref())?;
    let mut common = Common::take(&mut args)?;
    args.finish()?;
    if common.url.is_none() {
        common.url = profile.url.as_deref().map(str::parse).transpose()?;
    }
    common.threads = common.threads.max(profile.threads);
    let most = profile.stages.iter().map(|stage| stage.conns).max().unwrap_or(0);
    let script = Script {
        train: Arc::new(Train::new(profile.size, profile.text)),
        window: profile.window,
        beat: None,
        lifeline: false,
        order: None,
    };
    let plan = common.plan(profile.sources.max(sources_for(most)))?;
    let Some((crew, threads)) = common.crew(&plan, &Scene::Talk(script), most)? else { return Ok(ExitCode::SUCCESS) };
    let outcome = staged(crew, &profile.stages, &common.course(most, threads))?;
    let verdicts: Vec<_> = profile
        .thresholds
        .iter()
        .map(|threshold| {
            let (measured, met) = threshold.judge(&outcome);
            (format!("{} {} {}", threshold.measure, threshold.operator, threshold.limit), measured, met)
        })
        .collect();
    common.show(&outcome, &verdicts)
}

/// A time in seconds.
fn seconds(args: &mut Args, key: &'static str, default: f64) -> Result<Duration> {
    let seconds = args.or(key, default)?;
    Duration::try_from_secs_f64(seconds).with_context(|| format!("--{key} {seconds}"))
}
