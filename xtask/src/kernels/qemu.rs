//! One guest: boots a kernel, hears what it tells, and ends it when it says nothing any more.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::console;
use super::frames::{Frame, Frames};
use super::ran::{Ended, Heard, Ran};
use super::report::OfStep;
use super::steps::Step;
use super::tool::tool;
use crate::error::{Error, Result};

/// How long a guest may take until its first word.
const BOOT_MAX: Duration = Duration::from_secs(300);
/// How often is looked whether this chore was interrupted.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How much longer than its step's own limit a guest may say nothing: it hands over the log.
const SLACK: Duration = Duration::from_secs(120);

/// Who can do something about a QEMU that does not work.
const HINT: &str = "hint: this is about the host, not the kernel: a guest takes 8 GiB of memory \
                    (see `dmesg` for processes that were killed), and QEMU 7.2 or newer";

/// What a guest boots from, and where its words go.
pub(super) struct Guest<'a> {
    pub(super) vmlinuz: &'a Path,
    pub(super) initramfs: &'a Path,
    /// For what the kernel and QEMU say.
    pub(super) scratch: &'a Path,
}

impl Guest<'_> {
    /// Boots it, and hears it to its end.
    pub(super) fn run(&self, steps: &[Step], interrupted: &AtomicBool) -> Result<Ran> {
        let words = self.scratch.join("qemu");
        let stderr = fs::File::create(&words).map_err(Error::from("make a file for QEMU"))?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut qemu = Qemu(command.spawn().map_err(Error::from("start QEMU"))?);
        let Some(mut line) = qemu.0.stdout.take() else {
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
        let mut heard = Heard::default();
        let last = heard.all(steps, || told.recv_timeout(LOOK_AGAIN), interrupted);
        let status = match last {
            // It ends by itself.
            Last::Closed => Some(qemu.0.wait().map_err(Error::from("wait for QEMU"))?),
            _ => None,
        };
        drop(qemu);
        let read = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let console = read(&self.console());
        let words = format!("{}\n{}", console::tail(&console), read(&words));
        let ended = ended(last, status, !heard.release.is_empty(), words.trim());
        Ok(Ran { heard, ended, console })
    }

    fn console(&self) -> PathBuf {
        self.scratch.join("console")
    }

    fn command(&self) -> Command {
        // It ends with this chore, also if that is killed: with the thread that starts it.
        let mut command = tool("setpriv", "util-linux");
        command.args(["--pdeathsig", "KILL", QEMU]);
        // Not with this chore's group: where that stands still (Ctrl-Z), the guest's clock would go
        // on without it, and its steps would be at their limits.
        command.process_group(0);
        // With one or the other of these two features QEMU 7.2 faults in newer kernels.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,cx16=off"]);
        command.args(["-smp", "2", "-m", "8G", "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-append", &APPEND.join(" ")]);
        command.arg("-kernel").arg(self.vmlinuz).arg("-initrd").arg(self.initramfs);
        command.arg("-serial").arg(format!("file:{}", self.console().display()));
        command.args(["-serial", "stdio"]);
        command
    }
}

pub(super) const QEMU: &str = "qemu-system-x86_64";

/// The kernel's command line.
const APPEND: [&str; 5] = [
    "console=ttyS0",
    "panic=-1",
    // Where the host is busy, no tick may come while the kernel looks whether there are any.
    "no_timer_check",
    // Every mark of a step comes through.
    "printk.devkmsg=on",
    // Secret memory, which is off until 6.5.
    "secretmem.enable=1",
];

/// A QEMU that ends with this chore.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Ended already, unless it had to be given up.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was heard last of a guest.
#[derive(Debug, PartialEq, Eq)]
enum Last {
    Bye,
    /// QEMU has ended.
    Closed,
    Silence(Duration),
    /// What is no message.
    Nonsense(String),
    Interrupt,
}

/// What it means that this came last. `words` are the console's last ones, and QEMU's.
fn ended(last: Last, status: Option<ExitStatus>, booted: bool, words: &str) -> Ended {
    let why = match last {
        Last::Bye => return Ended::Well,
        Last::Interrupt => return Ended::NotByItself("interrupted".to_owned()),
        Last::Closed => match status {
            Some(status) if !status.success() => {
                let how = match status.signal() {
                    Some(signal) => format!("was killed by signal {signal}"),
                    None => format!("ended with exit code {}", status.code().unwrap_or_default()),
                };
                return Ended::NotByItself(format!("QEMU {how}\n{words}\n{HINT}"));
            }
            _ => "the guest ended".to_owned(),
        },
        Last::Silence(time) => format!("the guest said nothing for {} s", time.as_secs()),
        Last::Nonsense(what) => what,
    };
    match booted {
        true => Ended::Early(why),
        false => Ended::NotByItself(format!("{why}, before it had booted\n{words}\n{HINT}")),
    }
}

impl Heard {
    /// Hears a guest to its end, and says what came last.
    ///
    /// A look that finds nothing counts as [`LOOK_AGAIN`], however long it took: when this chore
    /// stands still, nobody can be heard.
    fn all(
        &mut self,
        steps: &[Step],
        mut look: impl FnMut() -> std::result::Result<Vec<u8>, RecvTimeoutError>,
        interrupted: &AtomicBool,
    ) -> Last {
        let mut frames = Frames::default();
        let mut silence = Duration::ZERO;
        let mut patience = BOOT_MAX;
        loop {
            loop {
                match frames.next() {
                    Ok(Some(Frame::Bye)) => return Last::Bye,
                    Ok(Some(frame)) => patience = self.take(steps, frame),
                    Ok(None) => break,
                    Err(what) => return Last::Nonsense(what),
                }
            }
            if interrupted.load(Ordering::Relaxed) {
                return Last::Interrupt;
            }
            match look() {
                Ok(bytes) => {
                    frames.take(&bytes);
                    silence = Duration::ZERO;
                }
                Err(RecvTimeoutError::Disconnected) => return Last::Closed,
                Err(RecvTimeoutError::Timeout) => {
                    silence += LOOK_AGAIN;
                    if silence >= patience {
                        return Last::Silence(patience);
                    }
                }
            }
        }
    }

    /// Takes one message down; how long may pass until the next.
    fn take(&mut self, steps: &[Step], frame: Frame) -> Duration {
        match frame {
            Frame::Hello(release) => {
                eprintln!("kernels: Linux {release} has booted");
                self.release = release;
            }
            Frame::Lacks(module) => self.lacks.push(module),
            Frame::Start(at) => {
                self.running = Some(at);
                if let Some(step) = steps.get(at) {
                    eprintln!("kernels: {} of {}: {step}", at + 1, steps.len());
                    return step.limit + SLACK;
                }
            }
            Frame::End(end) => {
                self.running = None;
                if let Some(step) = steps.get(end.step) {
                    let OfStep { passed, failed, skipped, seconds, .. } = OfStep::of(step, &end);
                    let counts = format!("{passed} passed, {failed} failed, {skipped} skipped");
                    eprintln!("kernels:     {counts} in {seconds} s");
                }
                self.ends.push(end);
            }
            Frame::Bye => {}
        }
        SLACK
    }
}

#[cfg(test)]
mod tests {
    use super::super::steps;
    use super::*;

    const NOTHING: &str = "";

    /// What was heard of a guest that told this, and what came last; `NOTHING` is a look in vain.
    fn heard(told: &[&str], interrupted: bool) -> (Heard, Last) {
        let all = [steps::command("true", Path::new("/ringwire"), &[])];
        let mut heard = Heard::default();
        let mut told = told.iter();
        let look = || match told.next() {
            Some(&NOTHING) => Err(RecvTimeoutError::Timeout),
            Some(bytes) => Ok(bytes.as_bytes().to_vec()),
            None => Err(RecvTimeoutError::Disconnected),
        };
        let last = heard.all(&all, look, &AtomicBool::new(interrupted));
        (heard, last)
    }

    #[test]
    fn a_guest_is_heard_to_its_end() {
        let told = ["hello 6.1.0\nlacks tls: why\nstart 0\nend 0 0 7 ", "2 0\nokbye\n"];
        let (heard, last) = heard(&told, false);
        assert_eq!(last, Last::Bye);
        assert_eq!(heard.release, "6.1.0");
        assert_eq!(heard.lacks, ["tls: why"]);
        assert_eq!(heard.ends.len(), 1);
        assert_eq!(heard.ends[0].log, "ok");
        assert_eq!(heard.running, None);
    }

    #[test]
    fn one_that_breaks_off_or_hangs_is_told_from_one_that_is_done() {
        let (closed, last) = heard(&["hello 6.1.0\nstart 0\n"], false);
        assert_eq!((closed.running, last), (Some(0), Last::Closed));
        assert_eq!(
            heard(&["what\n"], false).1,
            Last::Nonsense("the guest said \"what\" where a message was due".to_owned())
        );
        assert_eq!(heard(&[], true).1, Last::Interrupt);
        assert_eq!(heard(&[NOTHING; 600], false).1, Last::Silence(Duration::from_secs(300)));
    }

    #[test]
    fn each_byte_renews_the_patience() {
        let mut told = vec![NOTHING; 599];
        told.push("hel");
        told.extend([NOTHING; 599]);
        told.push("lo 6.1.0\n");
        let (heard, last) = heard(&told, false);
        assert_eq!((heard.release.as_str(), last), ("6.1.0", Last::Closed));
    }

    #[test]
    fn what_the_host_does_is_no_result_of_the_kernel() {
        let status = |raw| Some(ExitStatus::from_raw(raw));
        let is = |last, status, booted| match ended(last, status, booted, "WORDS") {
            Ended::Well => "well".to_owned(),
            Ended::Early(why) => format!("early: {why}"),
            Ended::NotByItself(why) => why.replace(HINT, "HINT").replace('\n', "; "),
        };
        assert_eq!(is(Last::Bye, None, true), "well");
        assert_eq!(is(Last::Interrupt, None, true), "interrupted");
        assert_eq!(is(Last::Closed, status(0), true), "early: the guest ended");
        let silence = || Last::Silence(Duration::from_secs(9));
        assert_eq!(is(silence(), None, true), "early: the guest said nothing for 9 s");
        assert_eq!(is(Last::Closed, status(9), true), "QEMU was killed by signal 9; WORDS; HINT");
        assert_eq!(
            is(Last::Closed, status(1 << 8), false),
            "QEMU ended with exit code 1; WORDS; HINT"
        );
        assert_eq!(
            is(silence(), None, false),
            "the guest said nothing for 9 s, before it had booted; WORDS; HINT"
        );
    }
}
