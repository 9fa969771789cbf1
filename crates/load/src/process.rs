//! What other processes cost, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::thread::available_parallelism;

use serde_json::{Value, json};

/// Clock ticks a second of /proc/PID/stat: fixed by the kernel's interface.
const TICKS: f64 = 100.0;

/// A process and all its descendants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    root: u32,
}

/// What a [`Tree`] has used and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time, in seconds.
    pub cpu: f64,
    /// Proportional set size, in bytes.
    pub pss: u64,
    /// Resident set size, in bytes.
    pub rss: u64,
    /// The part of `pss` without files, whose share depends on who else runs the same program.
    pub own: u64,
    /// Processes found.
    pub processes: usize,
}

impl Tree {
    /// The tree below `root`, itself included.
    pub fn of(root: u32) -> Self {
        Self { root }
    }

    /// User and system time of all of it, in seconds; steps of 10 ms a process.
    pub fn cpu(self) -> f64 {
        self.members().into_iter().filter_map(cpu_of).sum()
    }

    /// Time and memory of all of it.
    pub fn usage(self) -> Usage {
        let mut usage = Usage { cpu: self.cpu(), ..Usage::default() };
        for process in self.members() {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
            let kib = |name: &str| {
                let line = rollup.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
            };
            usage.pss += kib("Pss:") * 1024;
            usage.rss += kib("Rss:") * 1024;
            usage.own += (kib("Pss_Anon:") + kib("Pss_Shmem:")) * 1024;
            usage.processes += 1;
        }
        usage
    }

    fn members(self) -> Vec<u32> {
        let mut children = BTreeMap::<u32, Vec<u32>>::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(parent) = stat(process).and_then(|fields| fields.get(1)?.parse().ok()) {
                children.entry(parent).or_default().push(process);
            }
        }
        let mut members = vec![self.root];
        let mut at = 0;
        while let Some(process) = members.get(at) {
            let more = children.remove(process).unwrap_or_default();
            members.extend(more);
            at += 1;
        }
        members
    }
}

/// Fields of /proc/PID/stat from the state on: the name before may hold spaces.
fn stat(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

fn cpu_of(process: u32) -> Option<f64> {
    let fields = stat(process)?;
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / TICKS)
}

/// CPU time of the whole machine but idle and waiting, in seconds.
pub fn machine_cpu() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let busy: u64 = ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, n)| n).sum();
    busy as f64 / TICKS
}

/// The machine, for a report.
pub fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    json!({
        "cpu": model.map_or("unknown", |(_, name)| name),
        "cores": available_parallelism().map_or(1, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_and_holds_something() {
        let tree = Tree::of(std::process::id());
        let before = tree.cpu();
        let until = std::time::Instant::now() + std::time::Duration::from_millis(100);
        while std::time::Instant::now() < until {}
        assert!(tree.cpu() > before);
        let usage = tree.usage();
        assert!(usage.processes >= 1 && usage.rss >= usage.pss && usage.pss >= usage.own && usage.own > 0, "{usage:?}");
        assert!(machine_cpu() > 0.0);
    }
}
