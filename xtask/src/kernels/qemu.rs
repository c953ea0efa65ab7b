//! One guest: boots a kernel, hears what it tells, and ends it when it says nothing any more.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::frames::{End, Frame, Frames};
use super::report::OfStep;
use super::steps::Step;
use super::tool;
use crate::{Error, Result};

/// How long a guest may take until its first word.
const BOOT_MAX: Duration = Duration::from_secs(300);
/// How often is looked whether this chore was interrupted.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How much longer than its step's own limit a guest may say nothing: it hands over the log.
const SLACK: Duration = Duration::from_secs(120);
/// How much of its console is shown of a guest that did not end well, in lines.
const CONSOLE_LINES: usize = 40;

/// What a guest came to.
pub(super) struct Ran {
    /// What the kernel calls itself.
    pub(super) release: String,
    /// In the order of the steps, as far as it came.
    pub(super) ends: Vec<End>,
    /// Why it did not come to its end.
    pub(super) broke: Option<String>,
    /// What the kernel said to its console.
    pub(super) console: String,
}

/// Boots `vmlinuz` with the files of `initramfs`, and hears it to its end.
pub(super) fn run(
    vmlinuz: &Path,
    initramfs: &Path,
    console: &Path,
    steps: &[Step],
    interrupted: &AtomicBool,
) -> Result<Ran> {
    let mut guest = Guest(command(vmlinuz, initramfs, console).spawn().map_err(|why| {
        Error::new(format!("cannot start QEMU: {why}\nhint: apt-get install qemu-system-x86"))
    })?);
    let Some(mut line) = guest.0.stdout.take() else {
        return Err(Error::new("QEMU has no standard output"));
    };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        while let Ok(bytes @ 1..) = line.read(&mut buffer) {
            if tell.send(buffer[..bytes].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut heard = Heard::new(steps);
    let broke = heard.all(&told, interrupted).err();
    drop(guest); // it has ended, or has to
    if interrupted.load(Ordering::Relaxed) {
        return Err(Error::new("interrupted"));
    }
    let console = std::fs::read(console).unwrap_or_default();
    let console = String::from_utf8_lossy(&console).into_owned();
    let broke = broke.map(|why| format!("{why}; its console ends:\n{}", tail(&console)));
    Ok(Ran { release: heard.release, ends: heard.ends, broke, console })
}

fn command(vmlinuz: &Path, initramfs: &Path, console: &Path) -> Command {
    let mut command = tool("qemu-system-x86_64", "qemu-system-x86");
    // With one or the other of these two features QEMU 7.2 faults in newer kernels.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,cx16=off"]);
    command.args(["-smp", "2", "-m", "6G", "-nodefaults", "-no-user-config", "-no-reboot"]);
    // Where the host is busy, no tick may come while the kernel looks whether there are any.
    command.args(["-display", "none", "-append", "console=ttyS0 panic=-1 no_timer_check"]);
    command.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(initramfs);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A QEMU that ends with this chore.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // Ended already, unless it had to be given up.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a guest has told.
struct Heard<'a> {
    steps: &'a [Step],
    release: String,
    ends: Vec<End>,
    /// Until when it has to say something.
    patience: Duration,
}

impl Heard<'_> {
    fn new(steps: &[Step]) -> Heard<'_> {
        Heard { steps, release: String::new(), ends: Vec::new(), patience: BOOT_MAX }
    }

    /// Hears it to its end, or says why there was none.
    fn all(
        &mut self,
        told: &mpsc::Receiver<Vec<u8>>,
        interrupted: &AtomicBool,
    ) -> std::result::Result<(), String> {
        let mut frames = Frames::default();
        let mut deadline = Instant::now() + self.patience;
        loop {
            while let Some(frame) = frames.next()? {
                if self.take(frame) {
                    return Ok(());
                }
                deadline = Instant::now() + self.patience;
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match told.recv_timeout(left.min(LOOK_AGAIN)) {
                Ok(bytes) => frames.take(&bytes),
                Err(mpsc::RecvTimeoutError::Timeout) if left > LOOK_AGAIN => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err("the guest ended before it was done".to_owned());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let seconds = self.patience.as_secs();
                    return Err(format!("the guest said nothing for {seconds} s and was ended"));
                }
            }
        }
    }

    /// Takes one message down; whether it was the last one.
    fn take(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::Hello(release) => {
                eprintln!("kernels: Linux {release} has booted");
                self.release = release;
            }
            Frame::Start(at) => {
                if let Some(step) = self.steps.get(at) {
                    eprintln!("kernels: {} of {}: {step}", at + 1, self.steps.len());
                    self.patience = step.limit + SLACK;
                }
            }
            Frame::End(end) => {
                self.patience = SLACK;
                if let Some(step) = self.steps.get(end.step) {
                    let OfStep { passed, failed, skipped, seconds, .. } = OfStep::of(step, &end);
                    let counts = format!("{passed} passed, {failed} failed, {skipped} skipped");
                    eprintln!("kernels:     {counts} in {seconds} s");
                }
                self.ends.push(end);
            }
            Frame::Bye => return true,
        }
        false
    }
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::steps;
    use super::*;

    #[test]
    fn a_guest_is_heard_to_its_end() {
        let all = [steps::command("true", Path::new("/ringwire"), &[])];
        let mut heard = Heard::new(&all);
        let (tell, told) = mpsc::channel();
        for bytes in ["hello 6.1.0\nstart 0\nend 0 0 7 ", "2 0\nokbye\n"] {
            tell.send(bytes.into()).expect("heard");
        }
        assert_eq!(heard.all(&told, &AtomicBool::new(false)), Ok(()));
        assert_eq!(heard.release, "6.1.0");
        assert_eq!(heard.ends.len(), 1);
        assert_eq!(heard.ends[0].log, "ok");
    }

    #[test]
    fn one_that_breaks_off_or_hangs_is_told_from_one_that_is_done() {
        let (tell, told) = mpsc::channel();
        tell.send(b"hello 6.1.0\nstart 0\n".to_vec()).expect("heard");
        drop(tell);
        let going = AtomicBool::new(false);
        let ended = Heard::new(&[]).all(&told, &going);
        assert_eq!(ended, Err("the guest ended before it was done".to_owned()));
        let (_tell, told) = mpsc::channel();
        let mut heard = Heard::new(&[]);
        heard.patience = Duration::ZERO;
        let hangs = heard.all(&told, &going);
        assert_eq!(hangs, Err("the guest said nothing for 0 s and was ended".to_owned()));
        let interrupted = Heard::new(&[]).all(&told, &AtomicBool::new(true));
        assert_eq!(interrupted, Err("interrupted".to_owned()));
    }

    #[test]
    fn of_a_console_the_end_is_shown() {
        let console: String = (1..=50).map(|line| format!("{line}\n")).collect();
        assert!(tail(&console).starts_with("11\n12\n"));
        assert_eq!(tail("one\n"), "one");
    }
}
