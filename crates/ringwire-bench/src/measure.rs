//! Measuring around a loop: wall time, CPU time, and samples of release delays.
//!
//! CPU time is that of the whole process, user and system, all its threads; what the perfect wire's
//! acknowledger spun while it waited is taken off, and stated.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::ClockId;

use crate::job::Measurement;

/// CPU time that this process has used, all its threads, user and system.
pub fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// How long threads of this process have been ready to run while others had the processors, those
/// that have ended left out. Zero where the kernel does not tell.
///
/// # Kernel
/// The second number of /proc/PID/task/TID/schedstat (`CONFIG_SCHED_INFO`), in nanoseconds.
pub fn waited() -> Duration {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let of_task = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.flatten().filter_map(of_task).sum())
}

/// What a loop has counted. All that it needs not to count is left at 0.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Payloads accepted.
    pub payloads: u64,
    /// Bytes accepted.
    pub bytes: u64,
    /// System calls or ring requests that carried them.
    pub requests: u64,
    /// Notifications that memory is free.
    pub notifications: u64,
    /// Bytes known to have been copied.
    pub copied_bytes: u64,
    /// Bytes known not to have been.
    pub uncopied_bytes: u64,
    /// Payloads that failed.
    pub errors: u64,
    /// Sampled release delays.
    pub delays: Delays,
}

/// Samples of release delays.
#[derive(Clone, Debug, Default)]
pub struct Delays(Vec<u32>);

/// Samples of one run at most; more would only cost memory.
const SAMPLES_MAX: usize = 1 << 16;

impl Delays {
    /// Adds a sample.
    #[inline]
    pub fn add(&mut self, delay: Duration) {
        if self.0.len() < SAMPLES_MAX {
            self.0.push(u32::try_from(delay.as_nanos()).unwrap_or(u32::MAX));
        }
    }

    /// The delay in microseconds that this part (0 to 1) of the samples did not exceed; `None`
    /// without samples.
    pub fn quantile_us(&mut self, part: f64) -> Option<f64> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_unstable();
        let rank = (part * self.0.len() as f64).ceil() as usize;
        Some(f64::from(self.0[rank.clamp(1, self.0.len()) - 1]) / 1e3)
    }
}

/// The clock of a run, to be read once a request at most.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    now: Instant,
    time: Duration,
}

/// What a sender of small payloads sends between two looks at the clock.
pub const LOOK_BYTES: usize = 64 << 10;

impl Clock {
    /// A clock of a run of `time` that begins now.
    pub fn start(time: Duration) -> Clock {
        let started = Instant::now();
        Clock { started, now: started, time }
    }

    /// Reads the clock, and says whether the run goes on.
    #[inline]
    pub fn runs(&mut self) -> bool {
        self.now = Instant::now();
        self.now - self.started < self.time
    }

    /// When it was read last.
    #[inline]
    pub fn now(&self) -> Instant {
        self.now
    }
}

/// Runs `work` and says what it took. `spun` is how long the wire's acknowledger has spun so far.
///
/// # Errors
/// Those of `work`.
pub fn around<E>(
    spun: impl Fn() -> Duration,
    work: impl FnOnce() -> Result<Tally, E>,
) -> Result<Measurement, E> {
    let waited_before = waited();
    let (spun_before, cpu_before, started) = (spun(), process_cpu(), Instant::now());
    let mut tally = work()?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = process_cpu().saturating_sub(cpu_before);
    let spin = spun().saturating_sub(spun_before);
    let waited = waited().saturating_sub(waited_before);
    let known = tally.copied_bytes + tally.uncopied_bytes;
    Ok(Measurement {
        seconds,
        cpu_s: cpu.saturating_sub(spin).as_secs_f64(),
        spin_s: spin.as_secs_f64(),
        waited_s: waited.as_secs_f64(),
        payloads: tally.payloads,
        bytes: tally.bytes,
        requests: tally.requests,
        notifications: tally.notifications,
        copied_share: (known > 0).then(|| tally.copied_bytes as f64 / known as f64),
        release_delay_us_p50: tally.delays.quantile_us(0.5),
        release_delay_us_p99: tally.delays.quantile_us(0.99),
        errors: tally.errors,
        working_set_bytes: 0,
        note: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let mut delays = Delays::default();
        assert_eq!(delays.quantile_us(0.5), None);
        for us in (1..=100).rev() {
            delays.add(Duration::from_micros(us));
        }
        assert_eq!(delays.quantile_us(0.5), Some(50.0));
        assert_eq!(delays.quantile_us(0.99), Some(99.0));
        assert_eq!(delays.quantile_us(1.0), Some(100.0));
    }

    #[test]
    fn two_threads_on_one_processor_wait_for_each_other() {
        let one_cpu = || {
            let all = rustix::thread::sched_getaffinity(None).unwrap();
            let cpu = (0..).find(|cpu| all.is_set(*cpu)).unwrap();
            ringwire_wire::pin_to_cpu(cpu).unwrap();
        };
        let measured = std::thread::spawn(move || {
            one_cpu();
            let ends = Instant::now() + Duration::from_millis(100);
            let spin = move || while Instant::now() < ends {};
            let work = || {
                let other = std::thread::spawn(spin);
                spin();
                // While both are still there to be asked.
                let waited = waited();
                other.join().unwrap();
                Ok::<_, ()>(Tally { payloads: waited.as_millis() as u64, ..Tally::default() })
            };
            around(|| Duration::ZERO, work).unwrap()
        });
        let measured = measured.join().unwrap();
        assert!(measured.waited_s > 0.01 || measured.payloads > 10, "{measured:?}");
    }

    #[test]
    fn spinning_is_taken_off_and_stated() {
        let spun = std::cell::Cell::new(Duration::ZERO);
        let measured = around(
            || spun.get(),
            || {
                let began = process_cpu();
                while process_cpu() - began < Duration::from_millis(20) {}
                spun.set(Duration::from_millis(15));
                Ok::<_, ()>(Tally { copied_bytes: 1, uncopied_bytes: 3, ..Tally::default() })
            },
        )
        .unwrap();
        assert_eq!(measured.spin_s, 0.015);
        assert!((0.004..0.1).contains(&measured.cpu_s), "{}", measured.cpu_s);
        assert_eq!(measured.copied_share, Some(0.25));
    }
}
