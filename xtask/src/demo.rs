//! `cargo xtask demo`: the main job end to end, with nothing set up before.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::{bytes, cargo};

/// How the demonstration goes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How much random data to send to each receiver
    #[arg(long, value_name = "N", default_value = "256MiB", value_parser = bytes::parse)]
    bytes: u64,
    /// How many receivers, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=16))]
    receivers: u8,
}

/// How long a receiver may take to end once the sender has: longer than any that works, on a busy
/// machine.
const END_MAX: Duration = Duration::from_secs(300);

/// Builds, receives, sends, compares.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let program = cargo::build(&["build", "--release", "-p", "ringwire-cli"])?
        .into_iter()
        .find(|built| built.target == "ringwire")
        .ok_or_else(|| Error::new("cargo built no program called ringwire"))?
        .executable;
    show(&program, args)
}

fn show(program: &Path, args: &Args) -> Result<ExitCode> {
    // An interrupt ends the programs this one has started, whose end is then seen here: so it gets
    // to clean up.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())
            .map_err(Error::from("watch for an interrupt"))?;
    }
    // Beside the program, on a file system with room; it goes away, also after an error.
    let beside = program.parent().unwrap_or(Path::new("."));
    let dir = tempfile::Builder::new()
        .prefix("demo-")
        .tempdir_in(beside)
        .map_err(Error::from("make a temporary directory"))?;

    let source = dir.path().join("random.bin");
    println!("making {} bytes of random data", args.bytes);
    write_random(&source, args.bytes).map_err(Error::from("make the random data"))?;

    if interrupted.load(Ordering::Relaxed) {
        return Err(Error::new("interrupted"));
    }

    let mut receivers = Vec::new();
    for number in 1..=args.receivers {
        receivers.push(Receiver::start(program, dir.path(), number)?);
    }
    let mut send = Command::new(program);
    send.arg("send").arg(&source);
    for receiver in &receivers {
        send.args(["--to", &receiver.address]);
    }
    // A busy machine may keep any of them waiting.
    send.args(["--patience", "1h"]);
    println!("$ {}", shown(&send, dir.path()));
    let sent = send.status().map_err(Error::from("start ringwire send"))?;
    if !sent.success() {
        return Err(Error::new(format!("ringwire send ended with {sent}")));
    }

    let mut equal = true;
    for receiver in receivers {
        let (number, address) = (receiver.number, receiver.address.clone());
        let arrived = receiver.finish()?;
        let same = is_equal(&source, &arrived)
            .map_err(Error::from(format_args!("compare {}", arrived.display())))?;
        equal &= same;
        let verdict = if same { "equal, byte for byte" } else { "NOT EQUAL" };
        println!("receiver {number} ({address}): {} bytes, {verdict}", args.bytes);
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A running `ringwire recv`, killed if it is dropped before its end.
struct Receiver {
    number: u8,
    address: String,
    dir: PathBuf,
    /// What it says on standard error: shown if it fails, so that it does not disturb the sender's
    /// progress.
    log: PathBuf,
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Receiver {
    fn start(program: &Path, base: &Path, number: u8) -> Result<Receiver> {
        let dir = base.join(format!("received-{number}"));
        std::fs::create_dir(&dir).map_err(Error::from("make a receiver's directory"))?;
        let mut command = Command::new(program);
        command.args(["recv", "--listen", "127.0.0.1:0", "--count", "1", "--idle", "1h"]);
        command.arg("--dir").arg(&dir);
        println!("$ {} &", shown(&command, base));
        let log = base.join(format!("received-{number}.log"));
        let stderr = File::create_new(&log).map_err(Error::from("make a receiver's log"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(Error::from("start ringwire recv"))?;
        let stdout = child.stdout.take().map(BufReader::new);
        let stdout = stdout.ok_or_else(|| Error::new("ringwire recv has no standard output"))?;
        let mut receiver = Receiver { number, address: String::new(), dir, log, child, stdout };
        // The program says first where it listens, or ends with an error of its own.
        let mut line = String::new();
        receiver.stdout.read_line(&mut line).map_err(Error::from("hear from ringwire recv"))?;
        receiver.address = line
            .trim_end()
            .strip_prefix("listening on ")
            .ok_or_else(|| receiver.failed(&format!("does not listen, it says {line:?}")))?
            .to_owned();
        Ok(receiver)
    }

    /// Waits for its end; says where the file is that it got.
    fn finish(mut self) -> Result<PathBuf> {
        let started = Instant::now();
        let status = loop {
            let ended = self.child.try_wait().map_err(Error::from("wait for ringwire recv"))?;
            match ended {
                Some(status) => break status,
                None if started.elapsed() > END_MAX => {
                    return Err(self.failed("does not end"));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut words = String::new();
        self.stdout.read_to_string(&mut words).map_err(Error::from("hear from ringwire recv"))?;
        print!("{words}");
        if status.success() {
            Ok(self.dir.join("random.bin"))
        } else {
            Err(self.failed(&format!("ended with {status}")))
        }
    }

    fn failed(&self, how: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        Error::new(format!("receiver {} {how}\n{log}", self.number))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command as one would type it in the demonstration's directory.
fn shown(command: &Command, dir: &Path) -> String {
    let mut words = vec!["ringwire".to_owned()];
    words.extend(command.get_args().map(|arg| {
        let path = Path::new(arg);
        path.strip_prefix(dir).unwrap_or(path).display().to_string()
    }));
    words.join(" ")
}

fn write_random(path: &Path, bytes: u64) -> io::Result<()> {
    let mut random = File::open("/dev/urandom")?.take(bytes);
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
    io::copy(&mut random, &mut file)?;
    file.flush()
}

fn is_equal(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = vec![0; 1 << 20];
    let mut right = vec![0; 1 << 20];
    loop {
        let filled = fill(&mut one, &mut left)?;
        if fill(&mut other, &mut right)? != filled || left[..filled] != right[..filled] {
            return Ok(false);
        }
        if filled == 0 {
            return Ok(true);
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_compared_to_their_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        let long = vec![7; (1 << 20) + 3];
        let mut last = long.clone();
        last[1 << 20] = 8;
        let one = file("one", &long);
        assert!(is_equal(&one, &file("same", &long)).expect("compared"));
        assert!(!is_equal(&one, &file("last", &last)).expect("compared"));
        assert!(!is_equal(&one, &file("short", &long[..1 << 20])).expect("compared"));
        assert!(!is_equal(&file("empty", b""), &one).expect("compared"));
        assert!(is_equal(&one, dir.path().join("none").as_path()).is_err());
    }

    /// A stand-in for the program: its receivers' addresses are directories.
    const PROGRAM: &str = r#"#!/bin/sh
        if [ "$1" = recv ]; then
            shift; while [ "$1" != --dir ]; do shift; done
            echo "listening on $2"
            while [ ! -e "$2/sent" ]; do :; done
            exit 0
        fi
        file=$2; shift 2
        while [ "$1" = --to ]; do
            CHANGE
            cp "$file" "$2/random.bin"; : > "$2/sent"; shift 2
        done
    "#;

    fn shows(program: &str) -> Result<ExitCode> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ringwire");
        std::fs::write(&path, program).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        let shown = show(&path, &Args { bytes: 100_000, receivers: 3 });
        let left: Vec<_> = std::fs::read_dir(dir.path()).expect("read").collect();
        assert_eq!(left.len(), 1, "only the program is left: {left:?}");
        shown
    }

    // One test, because a thread that starts a program while another writes one can keep that from
    // being run (ETXTBSY).
    #[test]
    fn the_demonstration_compares_what_arrived_and_fails_with_its_programs() {
        let code = |code| format!("{:?}", ExitCode::from(code));
        let ended = |program: &str| shows(program).map(|code| format!("{code:?}")).ok();
        assert_eq!(ended(&PROGRAM.replace("CHANGE", ":")), Some(code(0)));
        assert_eq!(ended(&PROGRAM.replace("CHANGE", "echo x >> \"$file\"")), Some(code(1)));

        let why = |program: &str| shows(program).err().map(|Error(why)| why);
        let silent = why("#!/bin/sh\necho no room >&2; exit 3");
        assert!(
            silent.is_some_and(|why| why.contains("does not listen") && why.contains("no room"))
        );
        let fails = why(&PROGRAM.replace("CHANGE", "exit 5"));
        assert!(fails.is_some_and(|why| why.contains("send ended with exit status: 5")));
    }

    #[test]
    fn random_data_has_the_length_asked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("random.bin");
        write_random(&path, 3_000_001).expect("written");
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 3_000_001);
    }
}
