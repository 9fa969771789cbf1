//! `lifeline-load`: see `lifeline-load help`.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lifeline_load::args::Args;
use lifeline_load::proxy::Proxy;
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
        return Ok(ExitCode::SUCCESS);
    }
    let args = Args::parse(words)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command.as_str() {
        "proxy" => runtime.block_on(proxy(args)),
        _ => bail!("unknown sub-command '{command}'; known are proxy; see 'lifeline-load help'"),
    }
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

/// One line to stdout, at once: a script waits for it.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: nothing left to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
