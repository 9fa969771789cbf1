//! What a service manager is told: systemd's sd_notify(3). READY=1 when a server listens, STOPPING=1 when the
//! last one stops, STATUS= for people, and WATCHDOG=1 for as long as the application dispatches.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lifeline_proto::Time;
use parking_lot::Mutex;

use crate::clock;
use crate::core::Core;
use crate::server::Server;

/// Between two changes of the status.
const STATUS: Duration = Duration::from_secs(2);
/// How much longer than the drain the manager is asked to wait for the process.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a message that is sent once may wait for room.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who started this process, and what is due to it.
#[derive(Debug, Clone)]
pub struct Manager {
    /// Where to tell it.
    pub address: SocketAddr,
    /// How often to tell it that the process lives, where it asks for that.
    pub watchdog: Option<Duration>,
}

impl Manager {
    /// From `NOTIFY_SOCKET`, a path or `@abstract`, and `WATCHDOG_USEC` and `WATCHDOG_PID`: beats come twice
    /// in the time after which the manager gives up (sd_watchdog_enabled(3)), where it asks this process.
    ///
    /// # Errors
    /// What is wrong with the variable.
    pub fn parse(socket: &OsStr, usec: Option<&str>, pid: Option<&str>, process: u32) -> Result<Self, String> {
        let address = match socket.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(socket),
            [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
            _ => {
                return Err(format!("NOTIFY_SOCKET must be an absolute path or '@name', '{}' given", socket.display()));
            }
        }
        .map_err(|error| format!("NOTIFY_SOCKET: {error}"))?;
        let usec = match usec {
            Some(_) if pid.is_some_and(|pid| pid.parse() != Ok(process)) => None,
            Some(usec) => Some(usec.parse().map_err(|_| format!("WATCHDOG_USEC must be a number, '{usec}' given"))?),
            None => None,
        };
        let watchdog = usec.filter(|usec| *usec > 0).map(|usec: u64| Duration::from_micros((usec / 2).max(1000)));
        Ok(Self { address, watchdog })
    }
}

/// Tells the manager, if there is one.
#[derive(Debug, Default)]
pub struct Service {
    state: Mutex<Option<Told>>,
}

#[derive(Debug)]
struct Told {
    manager: Manager,
    socket: UnixDatagram,
    status: String,
    status_at: Time,
    /// A task beats.
    beating: bool,
}

impl Told {
    /// A manager that is gone or busy is no trouble of ours.
    fn send(&self, message: &str) {
        let _ = self.socket.send_to_addr(message.as_bytes(), &self.manager.address);
    }

    /// As [`Told::send`], but waits a moment for room.
    fn insist(&self, message: &str) {
        if self.socket.set_nonblocking(false).is_ok() {
            self.send(message);
            let _ = self.socket.set_nonblocking(true);
        }
    }
}

impl Service {
    /// A server listens.
    pub fn handle_start(&self, core: &Arc<Core>, manager: &Manager) {
        let mut state = self.state.lock();
        if state.is_none() {
            let open = || {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket.set_nonblocking(true)?;
                std::io::Result::Ok(socket)
            };
            let Ok(socket) = open() else { return };
            let (manager, status, status_at) = (manager.clone(), String::new(), Time::ZERO);
            *state = Some(Told { manager, socket, status, status_at, beating: false });
        }
        let Some(told) = state.as_mut() else { return };
        told.status = status(&core.servers());
        told.status_at = clock::now();
        told.insist(&format!("READY=1\nSTATUS={}", told.status));
        if let Some(interval) = told.manager.watchdog
            && !told.beating
        {
            told.beating = true;
            core.shards[0].handle.spawn(beat(Arc::downgrade(core), interval));
        }
    }

    /// A server stops within `drain`. The last one is what the manager is told of, and how long it takes:
    /// it would kill the process after a time of its own.
    pub fn handle_stop(&self, core: &Core, drain: Duration) {
        if let Some(told) = self.state.lock().as_mut() {
            let servers = core.servers();
            if servers.iter().all(|server| server.is_stopping()) {
                told.status = status(&servers);
                let usec = (drain + FAREWELL).as_micros();
                told.insist(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={usec}\nSTATUS={}", told.status));
            }
        }
    }

    /// Once a second.
    pub fn tick(&self, servers: &[Arc<Server>]) {
        if let Some(told) = self.state.lock().as_mut() {
            let now = clock::now();
            if now - told.status_at >= STATUS && !servers.is_empty() {
                let status = status(servers);
                if status != told.status {
                    told.send(&format!("STATUS={status}"));
                    told.status = status;
                    told.status_at = now;
                }
            }
        }
    }

    fn beat(&self) {
        if let Some(told) = self.state.lock().as_ref() {
            told.send("WATCHDOG=1");
        }
    }

    fn rest(&self) {
        if let Some(told) = self.state.lock().as_mut() {
            told.beating = false;
        }
    }
}

/// Beats until the last server has ended; not while PHP hangs.
async fn beat(core: Weak<Core>, interval: Duration) {
    loop {
        {
            let Some(core) = core.upgrade() else { return };
            let servers = core.servers();
            if servers.is_empty() {
                core.service.rest();
                return;
            }
            if !servers.iter().any(|server| server.is_late()) {
                core.service.beat();
            }
        }
        tokio::time::sleep(interval).await;
    }
}

/// One line.
fn status(servers: &[Arc<Server>]) -> String {
    let count: usize = servers.iter().map(|server| server.count()).sum();
    let mut line = format!("{count} connection{}", if count == 1 { "" } else { "s" });
    // Writing to a String cannot fail.
    if let Some(late) = servers.iter().find(|server| server.is_late()) {
        let _ = write!(line, "; PHP has not dispatched for {:.0} s", late.lag().as_secs_f64());
    } else if servers.iter().all(|server| server.is_stopping()) {
        line.push_str(", stopping");
    } else {
        for (index, url) in servers.iter().flat_map(|server| server.addresses()).enumerate() {
            let _ = write!(line, "{} {url}", if index == 0 { " on" } else { "," });
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(socket: &str, usec: Option<&str>, pid: Option<&str>) -> Result<Manager, String> {
        Manager::parse(OsStr::new(socket), usec, pid, 42)
    }

    #[test]
    fn the_manager_is_found_by_a_path_or_an_abstract_name() {
        let by_path = parse("/run/systemd/notify", None, None).unwrap();
        assert_eq!(by_path.address.as_pathname(), Some(std::path::Path::new("/run/systemd/notify")));
        assert_eq!(by_path.watchdog, None);
        let by_name = parse("@notify", None, None).unwrap();
        assert_eq!(by_name.address.as_abstract_name(), Some(&b"notify"[..]));
        for wrong in ["", "@", "notify", "vsock:2:1", &format!("/{}", "x".repeat(200))] {
            let error = parse(wrong, None, None).unwrap_err();
            assert!(error.starts_with("NOTIFY_SOCKET"), "{wrong}: {error}");
        }
    }

    #[test]
    fn it_is_told_twice_in_the_time_it_waits() {
        let interval = |usec, pid| parse("@a", usec, pid).map(|manager| manager.watchdog);
        assert_eq!(interval(Some("3000000"), None), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(interval(Some("3000000"), Some("42")), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(interval(Some("3000000"), Some("41")), Ok(None), "another process is asked");
        assert_eq!(interval(Some("3000000"), Some("")), Ok(None));
        assert_eq!(interval(Some("0"), None), Ok(None));
        assert_eq!(interval(Some("1"), None), Ok(Some(Duration::from_millis(1))));
        assert_eq!(interval(None, Some("42")), Ok(None));
        assert!(interval(Some("3s"), None).unwrap_err().contains("WATCHDOG_USEC must be a number, '3s' given"));
    }
}
