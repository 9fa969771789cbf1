//! `lifeline-load`: see `lifeline-load help`.

use std::io::BufRead;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lifeline_load::args::Args;
use lifeline_load::churn::{Churn, Ending};
use lifeline_load::echo::Echo;
use lifeline_load::hold::Hold;
use lifeline_load::proxy::Proxy;
use lifeline_load::{generator, say};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const HELP: &str = "\
lifeline-load proxy --target HOST:PORT [--listen ADDRESS] [--control ADDRESS] [--buffer BYTES]
    Forwards TCP and misbehaves on demand. Prints 'listening ADDRESS' (and 'control ADDRESS'), then
    answers each command line of stdin, and of the control address's connections, with 'ok', an
    'error ...' or JSON. Ends at the end of stdin.
      delay MS | throttle BYTES_PER_S | split N     0 switches off
      blackhole up|down|both                        TCP stays open, bytes are read and dropped
      stall up|down|both                            stop reading: writes get stuck
      resume                                        ends blackhole and stall
      cut | close                                   RST | FIN on both sides of each connection
      refuse on|reset|off                           listener closed | accept, then RST | forward
      target HOST:PORT                              for new connections
      stats                                         JSON

lifeline-load hold --url URL --peers KIND=N,... --secs S [--every S] [--size BYTES] [--rate BYTES]
                   [--sources N] [--until-eof] [--messages N]
    Peers that stay. Prints 'ready' when all are open; ends after S seconds (or at the end of stdin).
    --messages: those of answer that have fewer stay for them, up to 60 seconds.
      ping      ping each --every seconds (1) and answer pings
      answer    answer pings
      silent    read, answer nothing
      deaf      never read
      flood     answer pings, send messages of --size (4096) at --rate (204800) bytes a second each
      half      send the first fragment (--size) of a message that never ends, answer pings
    Reports by kind: still alive, closed (code, reason, first and last second), the worst gap between
    the server's beats, the worst delay of its pongs. Exit code 1: some were closed.

lifeline-load echo --url URL [--conns N] [--window N] [--size BYTES] [--messages N] [--every S] [--text]
                   [--sources N] [--timeout S] [--until-eof]
    Prints 'ready' when all are open. Sends --messages (1000) on each connection, --window (16) under
    way, with a pause of --every seconds (0), and checks every byte; --until-eof: ends early at the end
    of stdin.

lifeline-load churn --url URL [--connects N] [--concurrency N] [--ending close|fin|reset] [--sources N]
    Connect, upgrade, end. Exit code 1: some failed.

hold, echo and churn print JSON. --sources N: bind to N loopback addresses from 127.0.0.2 on.
Exit codes: 0 as expected, 1 the peer did not do what it should, 2 wrong arguments or no connection.
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lifeline-load: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    if matches!(command.as_str(), "help" | "--help" | "-h") {
        say(HELP.trim_end());
        say("");
        say(generator::HELP.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let profile = if command == "run" { words.next() } else { None };
    let args = Args::parse(words)?;
    match command.as_str() {
        "blocked" => return generator::blocked(args),
        "broadcast" => return generator::broadcast(args),
        "echo" if args.has("secs") => return generator::echo(args),
        "handshake" => return generator::handshake(args),
        "idle" => return generator::idle(args),
        "numbers" => return generator::numbers(args),
        "reconnect" => return generator::reconnect(args),
        "resume" => return generator::resume(args),
        "run" => return generator::profile(profile, args),
        "serve" => return generator::serve(args),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command.as_str() {
        "churn" => runtime.block_on(churn(args)),
        "echo" => runtime.block_on(echo(args)),
        "hold" => runtime.block_on(hold(args)),
        "proxy" => runtime.block_on(proxy(args)),
        _ => bail!(
            "unknown sub-command '{command}'; known are blocked, broadcast, churn, echo, handshake, hold, idle, \
             numbers, proxy, reconnect, resume, run, serve; see 'lifeline-load help'"
        ),
    }
}

async fn churn(mut args: Args) -> Result<ExitCode> {
    let churn = Churn {
        url: args.required("url")?,
        connects: args.or("connects", 1000)?,
        concurrency: args.or("concurrency", 32)?,
        ending: args.or("ending", Ending::Close)?,
        sources: args.or("sources", 0)?,
    };
    args.finish()?;
    let report = churn.run().await?;
    say(&report.to_string());
    Ok(verdict(report["failed"].as_object().is_some_and(serde_json::Map::is_empty)))
}

async fn echo(mut args: Args) -> Result<ExitCode> {
    let echo = Echo {
        url: args.required("url")?,
        conns: args.or("conns", 1)?,
        window: args.or("window", 16)?,
        size: args.or("size", 128)?,
        messages: args.or("messages", 1000)?,
        every: seconds(&mut args, "every", 0.0)?,
        text: args.flag("text"),
        sources: args.or("sources", 0)?,
        timeout: seconds(&mut args, "timeout", 60.0)?,
    };
    let until_eof = args.flag("until-eof");
    args.finish()?;
    match echo.run(|| say("ready"), end_of_stdin(until_eof)).await {
        Ok(report) => {
            say(&report.to_string());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            say(&serde_json::json!({ "error": format!("{error:#}") }).to_string());
            Ok(verdict(false))
        }
    }
}

async fn hold(mut args: Args) -> Result<ExitCode> {
    let hold = Hold {
        url: args.required("url")?,
        crowd: args.required("peers")?,
        stay: seconds(&mut args, "secs", f64::NAN)?,
        every: seconds(&mut args, "every", 1.0)?,
        size: args.or("size", 4096)?,
        rate: args.or("rate", 200 * 1024)?,
        messages: args.or("messages", 0)?,
        sources: args.or("sources", 0)?,
    };
    let until_eof = args.flag("until-eof");
    args.finish()?;
    let report = hold.run(|| say("ready"), end_of_stdin(until_eof)).await?;
    say(&report.to_string());
    let mut kinds = report["kinds"].as_object().into_iter().flat_map(serde_json::Map::values);
    Ok(verdict(kinds.all(|kind| kind["alive"] == kind["conns"])))
}

fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// A time in seconds; NaN as default: required.
fn seconds(args: &mut Args, key: &'static str, default: f64) -> Result<Duration> {
    let seconds = if default.is_nan() { args.required(key)? } else { args.or(key, default)? };
    Duration::try_from_secs_f64(seconds).with_context(|| format!("--{key} {seconds}"))
}

async fn proxy(mut args: Args) -> Result<ExitCode> {
    let target: String = args.required("target")?;
    let listen: SocketAddr = args.or("listen", SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let control: String = args.or("control", String::new())?;
    let buffer: u32 = args.or("buffer", 0)?;
    args.finish()?;

    let proxy = Arc::new(Proxy::start(listen, &target, (buffer > 0).then_some(buffer))?);
    say(&format!("listening {}", proxy.address()));
    if !control.is_empty() {
        let listener = TcpListener::bind(&control).await.with_context(|| format!("--control {control}"))?;
        say(&format!("control {}", listener.local_addr()?));
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_control(stream, Arc::clone(&proxy)));
            }
        });
    }
    let mut lines = stdin_lines();
    while let Some(line) = lines.recv().await {
        say(&answer(&proxy, &line).await);
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve_control(mut stream: TcpStream, proxy: Arc<Proxy>) {
    let (reads, mut writes) = stream.split();
    let mut lines = BufReader::new(reads).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = answer(&proxy, &line).await + "\n";
        if writes.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn answer(proxy: &Proxy, line: &str) -> String {
    proxy.command(line).await.unwrap_or_else(|error| format!("error {error:#}"))
}

/// Waits for the end of stdin if that is `wanted`, else for ever.
async fn end_of_stdin(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let mut lines = stdin_lines();
    while lines.recv().await.is_some() {}
}

/// Lines of stdin; closed at its end. A thread of its own, because reading stdin blocks.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
