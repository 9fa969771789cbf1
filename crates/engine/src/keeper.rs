//! The thread that writes to disk what need not be written by the thread that sends, so that I/O threads
//! never wait for a disk.

use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;

/// How often those who registered are looked after: what may be lost is younger than twice this.
pub const TICK: Duration = Duration::from_millis(500);
/// Between two rounds: acknowledgements come in by the hundred, and one write does for all of them.
const PACE: Duration = Duration::from_millis(5);

/// Somebody with something to write.
pub trait Tend: Send + Sync {
    /// Writes it. `tick`: once in [`TICK`], else because it was asked for.
    fn tend(&self, tick: bool);
}

type Hook = Arc<dyn Fn() + Send + Sync>;

enum Job {
    Register(Weak<dyn Tend>),
    Tend(Weak<dyn Tend>),
    Run(Box<dyn FnOnce() + Send>),
}

/// One a process; its thread starts with the first job.
#[derive(Default)]
pub struct Keeper {
    hook: OnceLock<Hook>,
    state: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Keeper {
    /// Called on the thread before anything else.
    pub fn set_hook(&self, hook: Hook) {
        let _ = self.hook.set(hook);
    }

    /// Looks after `tend` for as long as it lives.
    pub fn register(&self, tend: Weak<dyn Tend>) {
        self.give(Job::Register(tend));
    }

    /// Looks after `tend` soon.
    pub fn tend(&self, tend: Weak<dyn Tend>) {
        self.give(Job::Tend(tend));
    }

    /// Runs `job`, behind all that was given before.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.give(Job::Run(Box::new(job)));
    }

    /// Does what is left, and ends the thread.
    pub fn stop(&self) {
        let state = self.state.lock().take();
        if let Some((sender, thread)) = state {
            drop(sender);
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }

    fn give(&self, job: Job) {
        let mut state = self.state.lock();
        if state.is_none() {
            let (sender, receiver) = crossbeam_channel::unbounded();
            let hook = self.hook.get().cloned();
            let thread = std::thread::Builder::new().name("lifeline-store".to_owned()).spawn(move || {
                if let Some(hook) = hook {
                    hook();
                }
                serve(&receiver);
            });
            let Ok(thread) = thread else {
                // None is left: here and now then.
                drop(state);
                return carry_out(job, &mut Vec::new());
            };
            *state = Some((sender, thread));
        }
        if let Some((sender, _)) = &*state {
            // It receives as long as there is a sender.
            let _ = sender.send(job);
        }
    }
}

fn carry_out(job: Job, registered: &mut Vec<Weak<dyn Tend>>) {
    match job {
        Job::Register(tend) => registered.push(tend),
        Job::Tend(tend) => {
            if let Some(tend) = tend.upgrade() {
                tend.tend(false);
            }
        }
        Job::Run(job) => job(),
    }
}

fn serve(jobs: &Receiver<Job>) {
    let mut registered: Vec<Weak<dyn Tend>> = Vec::new();
    let mut next = Instant::now() + TICK;
    loop {
        let job = if registered.is_empty() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_deadline(next)
        };
        match job {
            Ok(job) => {
                let soon = matches!(job, Job::Tend(_));
                if soon {
                    std::thread::sleep(PACE);
                }
                carry_out(job, &mut registered);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if Instant::now() >= next {
            next = Instant::now() + TICK;
            registered.retain(|tend| {
                let Some(tend) = tend.upgrade() else { return false };
                tend.tend(true);
                true
            });
        }
    }
}
