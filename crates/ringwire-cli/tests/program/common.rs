//! What the program's tests share: running it, speaking its protocol by hand, comparing.
//!
//! Nothing here sleeps for a time: waits are for a condition, with a deadline that only a failing
//! test reaches.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ringwire_wire::{Side, Veth};
use rustix::process::{Pid, Signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Longer than anything takes that works, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// A directory on the disk that the tests are built on, not on a tmpfs that /tmp may be; for a user
/// who did not build them, wherever temporary files go.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).or_else(|_| tempfile::tempdir()).unwrap()
}

/// Waits until `condition` gives something.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {LONG:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Begins `ringwire send`, to which no receiver is too slow, however busy the machine is.
pub(crate) const SEND: [&str; 3] = ["send", "--patience", "1h"];

/// Begins `ringwire recv`, to which no sender is silent for too long.
pub(crate) const RECV: [&str; 3] = ["recv", "--idle", "1h"];

/// The program with some arguments.
pub(crate) fn ringwire<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(args).env_remove("COLUMNS").env("LC_ALL", "C");
    command
}

/// A running program, killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    stdout: Heard,
    stderr: Heard,
}

/// How a program ended.
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl End {
    /// Exit code and all output in one piece, for a snapshot.
    pub(crate) fn shown(&self) -> String {
        let code = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
        };
        format!("{code}\n--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }

    /// What it warned of. Notes are left out: they depend on the user's limits.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.stderr.lines().filter_map(|line| line.strip_prefix("warning: ")).collect()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> End {
        assert_eq!(self.status.code(), Some(code), "{}", self.shown());
        self
    }
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Program {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = Heard::listen(child.stdout.take().unwrap());
        let stderr = Heard::listen(child.stderr.take().unwrap());
        Program { child, stdout, stderr }
    }

    /// The first line on stdout that `find` finds something in.
    pub(crate) fn stdout_line<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.stdout.line(what, find)
    }

    pub(crate) fn stderr_line<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.stderr.line(what, find)
    }

    /// What it has said on stdout so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.stdout.0.so_far.lock().unwrap().0).into_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops it, and returns when it has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid());
        until("the program to stop", || {
            fs::read_to_string(&stat).unwrap().contains(") T ").then_some(())
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> End {
        let status = until("the program's end", || self.child.try_wait().unwrap());
        End { status, stdout: self.stdout.all(), stderr: self.stderr.all() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program has said so far.
struct Heard(Arc<Said>);

#[derive(Default)]
struct Said {
    /// The bytes, and whether that was all.
    so_far: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

impl Heard {
    fn listen(mut from: impl Read + Send + 'static) -> Heard {
        let heard = Arc::<Said>::default();
        let told = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let bytes = from.read(&mut buffer).unwrap_or(0);
                let mut heard = told.so_far.lock().unwrap();
                heard.0.extend_from_slice(&buffer[..bytes]);
                heard.1 = bytes == 0;
                told.more.notify_all();
                if bytes == 0 {
                    return;
                }
            }
        });
        Heard(heard)
    }

    fn line<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + LONG;
        let mut heard = self.0.so_far.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&heard.0).into_owned();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if let Some(found) = whole.lines().find_map(&mut find) {
                return found;
            }
            assert!(!heard.1, "the program ended without {what}; it said:\n{text}");
            assert!(Instant::now() < deadline, "waited {LONG:?} for {what}; it said:\n{text}");
            heard = self.0.more.wait_timeout(heard, LONG / 10).unwrap().0;
        }
    }

    fn all(&self) -> String {
        let heard = self.0.so_far.lock().unwrap();
        let (heard, timeout) =
            self.0.more.wait_timeout_while(heard, LONG, |heard| !heard.1).unwrap();
        assert!(!timeout.timed_out(), "somebody keeps the program's output open");
        String::from_utf8(heard.0.clone()).unwrap()
    }
}

/// Whether `uring` is to be had: not before Linux 6.0.
pub(crate) fn has_uring() -> bool {
    let build = || ringwire::Ring::builder().engine(ringwire::EngineChoice::Uring).build();
    until("a ring, or none for good", || match build() {
        Ok(_) => Some(true),
        Err(ringwire::Error::Unsupported { feature, .. }) if feature.contains("SEND_ZC") => {
            Some(false)
        }
        // What other rings had locked comes back a while after they are gone.
        Err(ringwire::Error::Unsupported { needs, .. }) if needs.starts_with("RLIMIT_MEMLOCK") => {
            None
        }
        Err(why) => panic!("{why}"),
    })
}

/// Sets the near side's memory for notifications; `false` where namespaces have no setting of their
/// own (before Linux 6.8).
pub(crate) fn sets_optmem(veth: &Veth, bytes: &str) -> bool {
    match veth.set_sysctl(Side::Near, "net/core/optmem_max", bytes) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => false,
        set => set.is_ok() || panic!("{set:?}"),
    }
}

/// What doctor says where somebody whom it does not see has everything copied, on kernels before
/// 6.16: another test may.
pub(crate) const TAPPED: &str = "before Linux 6.16 a packet socket on all interfaces";

/// Compares with `snapshots/NAME.snap`. `INSTA_UPDATE=always` writes it.
#[track_caller]
pub(crate) fn assert_shown(name: &str, text: impl AsRef<str>) {
    let mut settings = insta::Settings::new();
    // Where it is does not hang on cargo, which whoever runs the tests may not have.
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text.as_ref()));
}

/// Runs the program to its end.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> End {
    Program::start(ringwire(args)).end()
}

/// Both sides of a new terminal of this width.
pub(crate) fn terminal(columns: u16) -> (fs::File, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = rustix::fs::open(
        name.as_c_str(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let size = rustix::termios::Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size).unwrap();
    (ours.into(), theirs)
}

/// A running `ringwire recv` with a directory of its own.
pub(crate) struct Receiver {
    pub(crate) program: Program,
    pub(crate) address: String,
    dir: tempfile::TempDir,
}

impl Receiver {
    pub(crate) fn start(args: &[&str]) -> Receiver {
        Receiver::start_in(scratch(), args)
    }

    pub(crate) fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Receiver {
        let mut command = ringwire(RECV);
        command.args(["--listen", "127.0.0.1:0", "--dir"]).arg(dir.path()).args(args);
        Receiver::of(command, dir)
    }

    pub(crate) fn of(command: Command, dir: tempfile::TempDir) -> Receiver {
        Receiver::by(Program::start(command), dir)
    }

    pub(crate) fn by(program: Program, dir: tempfile::TempDir) -> Receiver {
        let address = program.stdout_line("its address", |line| {
            Some(line.strip_prefix("listening on ")?.to_owned())
        });
        Receiver { program, address, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Does something while the receiver does not run, so that all of it is there when it goes on,
    /// however slowly it was done.
    pub(crate) fn while_stopped<T>(&self, act: impl FnOnce() -> T) -> T {
        self.program.stop();
        let done = act();
        self.program.signal(Signal::CONT);
        done
    }

    /// Connects to it as a sender that has greeted and was greeted.
    pub(crate) fn greeted(&self) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(SENDER).unwrap();
        read_greeting(&mut stream);
        stream
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Waits for its end, and keeps the directory.
    pub(crate) fn end(self) -> (End, tempfile::TempDir) {
        (self.program.end(), self.dir)
    }
}

/// The names in a directory, in order.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The bytes in a receiver's only temporary file so far; `None` while there is no such file.
pub(crate) fn temporary_bytes(dir: &Path) -> Option<u64> {
    let name = names(dir).into_iter().find(|name| name.starts_with(".ringwire-"))?;
    Some(fs::metadata(dir.join(name)).ok()?.len())
}

/// Bytes that do not repeat and do not compress, the same for the same seed.
pub(crate) fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut content);
    content
}

pub(crate) fn write(path: PathBuf, content: &[u8]) -> PathBuf {
    fs::write(&path, content).unwrap();
    path
}

#[track_caller]
pub(crate) fn assert_same(path: &Path, content: &[u8]) {
    let there = fs::read(path).unwrap();
    assert!(there == content, "{} differs, {} bytes", path.display(), there.len());
}

// The protocol by hand, so that the program is held to these bytes and not to its own code.

pub(crate) const SENDER: &[u8; 16] = b"ringwire\x00\x01S\0\0\0\0\0";
pub(crate) const RECEIVER: &[u8; 16] = b"ringwire\x00\x01R\0\0\0\0\0";
/// How a receiver greets that begins, and one that serves others; its number follows.
pub(crate) const BEGINS: &[u8] = b"ringwire\x00\x01R";
pub(crate) const BUSY: &[u8] = b"ringwire\x00\x01W";

/// Reads the greetings of a receiver, up to the one that says that it begins.
#[track_caller]
pub(crate) fn read_greeting(stream: &mut TcpStream) {
    let mut greeting = [0; 16];
    loop {
        stream.read_exact(&mut greeting).unwrap();
        if !greeting.starts_with(BUSY) {
            assert!(greeting.starts_with(BEGINS), "{greeting:?}");
            return;
        }
    }
}

pub(crate) const BYE: &[u8] = b"\x06\0\0\0\0";

pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind], &length[..], body].concat()
}

pub(crate) fn file(size: u64, name: &[u8]) -> Vec<u8> {
    frame(1, &[&size.to_be_bytes()[..], name].concat())
}

pub(crate) fn data(bytes: &[u8]) -> Vec<u8> {
    frame(2, bytes)
}

pub(crate) fn end(content: &[u8]) -> Vec<u8> {
    frame(3, blake3::hash(content).as_bytes())
}

/// Kind and body.
pub(crate) type Frame = (u8, Vec<u8>);

/// Reads one frame.
pub(crate) fn read_frame(stream: &mut impl Read) -> std::io::Result<Frame> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}

/// The next thing that a receiver says, ALIVE left out: `stored: text`, or `closing: text`.
pub(crate) fn said(stream: &mut TcpStream) -> String {
    const STATUS: [&str; 5] = ["stored", "refused", "failed", "mismatch", "abandoned"];
    loop {
        match read_frame(stream).unwrap() {
            (0x81, body) => {
                let text = String::from_utf8(body[5..].to_vec()).unwrap();
                return format!("{} {}: {text}", STATUS[body[4] as usize], body[3]);
            }
            (0x82, _) => {}
            (0x83, body) => return format!("closing: {}", String::from_utf8(body).unwrap()),
            (kind, _) => panic!("a receiver sent a frame of kind {kind:#04x}"),
        }
    }
}

/// A listener whose connections take little that is not read; by default it can be 32 MiB.
pub(crate) fn small_listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 256 << 10).unwrap();
    listener
}

/// A stand-in for a receiver: takes one connection and does what it is told with it.
pub(crate) fn stand_in<T: Send + 'static>(
    act: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (String, std::thread::JoinHandle<T>) {
    let listener = small_listener();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        act(stream)
    });
    (address, thread)
}

/// Where a [`Gate`] keeps a sender's stream from going on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Held {
    /// After so many bytes of the first file, the next frame's head left out.
    Data(u64),
    /// Before the frame that says that a file is whole.
    End,
    /// Before the goodbye.
    Bye,
}

/// Stands between a sender and a receiver, and lets the sender's stream through up to a point.
/// What the receiver says goes through all the time. Dropped, it ends both connections.
pub(crate) struct Gate {
    pub(crate) address: String,
    open: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gate {
    pub(crate) fn before(receiver: &Receiver, held: Held) -> Gate {
        let (open, opens) = std::sync::mpsc::channel();
        let to = receiver.address.clone();
        let (address, thread) = stand_in(move |sender| {
            let receiver = TcpStream::connect(to).unwrap();
            let back = (receiver.try_clone().unwrap(), sender.try_clone().unwrap());
            let back = std::thread::spawn(move || {
                let (mut from, mut to) = back;
                // Either may be killed.
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
            // A stream that breaks off is broken off behind it, too.
            let _ = pass(&sender, &receiver, held, &opens);
            let both = std::net::Shutdown::Both;
            let _ = (receiver.shutdown(both), sender.shutdown(both));
            back.join().unwrap();
        });
        Gate { address, open: Some(open), thread: Some(thread) }
    }

    /// Lets everything through.
    pub(crate) fn open(&self) {
        self.open.as_ref().unwrap().send(()).unwrap();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open = None;
        // It has failed with a test that has failed.
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Passes a sender's stream on up to `held`, and the rest once that `opens`.
fn pass(
    mut from: &TcpStream,
    mut to: &TcpStream,
    held: Held,
    opens: &std::sync::mpsc::Receiver<()>,
) -> std::io::Result<()> {
    let mut greeting = [0; 16];
    from.read_exact(&mut greeting)?;
    to.write_all(&greeting)?;
    let mut left = match held {
        Held::Data(bytes) => bytes,
        Held::End | Held::Bye => u64::MAX,
    };
    let mut in_file = false;
    // A head that was read already.
    let mut kept = Vec::new();
    while !(in_file && left == 0) {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        if matches!((held, head[0]), (Held::End, 3) | (Held::Bye, 6)) {
            kept.extend(head);
            break;
        }
        to.write_all(&head)?;
        let bytes = u64::from(u32::from_be_bytes([head[1], head[2], head[3], head[4]]));
        let passed = if head[0] == 2 { bytes.min(left) } else { bytes };
        std::io::copy(&mut from.take(passed), &mut to)?;
        match head[0] {
            1 => in_file = true,
            2 => left -= passed,
            _ => {}
        }
    }
    if opens.recv().is_ok() {
        to.write_all(&kept)?;
        std::io::copy(&mut from, &mut to)?;
        to.shutdown(std::net::Shutdown::Write)?;
        // The receiver's word on it is still to come, and its end.
        let _ = opens.recv();
    }
    Ok(())
}
