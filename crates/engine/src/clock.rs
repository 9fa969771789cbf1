//! The engine's clock: one origin for the process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use lifeline_proto::Time;
use rustix::time::{ClockId, clock_gettime};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Now, on the monotonic clock. Never [`Time::ZERO`], so that zero can mean "never".
pub fn now() -> Time {
    let elapsed = ORIGIN.get_or_init(Instant::now).elapsed();
    Time::from_micros(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).saturating_add(1))
}

/// Time since boot, suspended time included: runs ahead of [`now`] while the machine sleeps.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
