//! Everything that the program prints; no other file may.
//!
//! Results go to stdout, one flushed line each. Progress, notes, warnings and errors go to stderr:
//! bars where it is a terminal, else plain lines every few seconds. No colours of our own, so
//! NO_COLOR has nothing to take away.
//!
//! A stdout or stderr that cannot be written to ends nothing: what could not be said is lost, the
//! transfer goes on. That stdout failed is said once, and [`Output::all_said`] knows it, for those
//! whose result is what they print. Whoever reads no further (`| head -1`) has what he wanted: that
//! is no failure.
//!
//! One that blocks (a pipe into `less`, Ctrl-S) holds up whoever prints, and so what is written.
//! Only the order to exit is stronger: [`Output::watch`].

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use ringwire_core::running::Patience;
use rustix::event::{PollFd, PollFlags};

use crate::exit::{Exit, Failure};
use crate::poll::poll_for;
use crate::signals::Signals;
use crate::threads;
use crate::units::{show_bytes, show_duration, show_rate};

/// How often plain progress is said. Often enough to see that it lives, seldom enough for a log.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// How often a second bars are drawn: more is only CPU.
const DRAWN_HZ: u8 = 10;

/// How long a write may take once the program has been told to exit: longer than a terminal or a
/// log that is read, and short for who has told it.
const BLOCKED_FOR: Duration = Duration::from_secs(2);

/// The program's voice; may be used from any thread.
pub(crate) struct Output {
    bars: MultiProgress,
    terminal: bool,
    /// Why something of the result could not be said.
    lost: OnceLock<io::Error>,
    writes: Arc<Writes>,
}

/// Counts the beginnings and the ends of writes, so that it is odd while one is under way. There is
/// one at a time: they are made with the bars suspended, or by those.
#[derive(Debug, Default)]
struct Writes(AtomicU64);

impl Writes {
    fn during<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::Relaxed);
        let done = write();
        self.0.fetch_add(1, Ordering::Relaxed);
        done
    }

    /// Waits until one write has been under way for so long, of the time in which we run.
    fn wait_for_one_that_blocks(&self, for_long: Duration) {
        loop {
            let seen = self.0.load(Ordering::Relaxed);
            let mut patience = Patience::new(Instant::now(), for_long);
            while let Some(slice) = patience.slice(Instant::now()) {
                std::thread::park_timeout(slice);
            }
            if seen % 2 == 1 && self.0.load(Ordering::Relaxed) == seen {
                return;
            }
        }
    }
}

impl Output {
    pub(crate) fn new() -> Output {
        let terminal = io::stderr().is_terminal();
        let writes = Arc::<Writes>::default();
        let target = match terminal {
            true => {
                let screen = Box::new(Screen::new(Arc::clone(&writes)));
                ProgressDrawTarget::term_like_with_hz(screen, DRAWN_HZ)
            }
            false => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        Output { bars, terminal, lost: OnceLock::new(), writes }
    }

    /// Has the program end when it is told to exit while something that it says cannot be written,
    /// because nobody reads, and is not to be in [`BLOCKED_FOR`]. What else it was about is left as
    /// it is, as by a kill.
    pub(crate) fn watch(&self, signals: &Signals) {
        let (signals, writes) = (signals.clone(), Arc::clone(&self.writes));
        let watch = move || {
            while signals.seen().is_none() {
                // Not with less than a signal, and it fails for nothing but memory.
                let mut fds = [PollFd::new(&signals, PollFlags::IN)];
                if poll_for(&mut fds, Duration::from_secs(3600)).is_err() {
                    std::thread::park_timeout(BLOCKED_FOR);
                }
            }
            writes.wait_for_one_that_blocks(BLOCKED_FOR);
            std::process::exit(Exit::Error as i32);
        };
        // Without a thread to be had, it is killed, as it would be without all this.
        let _ = threads::start("watch", watch);
    }

    /// One line of result, on stdout, at once.
    pub(crate) fn result(&self, line: impl Display) {
        let said = self.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            self.writes.during(|| writeln!(stdout, "{line}").and_then(|()| stdout.flush()))
        });
        match said {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let why = format!("cannot write to stdout: {error}; what is said there is lost");
                if self.lost.set(error).is_ok() {
                    self.warning(why);
                }
            }
            _ => {}
        }
    }

    /// Whether all results could be said.
    ///
    /// # Errors
    /// Something was not; it has been warned of.
    pub(crate) fn all_said(&self) -> Result<(), Failure> {
        match self.lost.get() {
            None => Ok(()),
            Some(error) => Err(Failure::new(format!("the result could not be written: {error}"))),
        }
    }

    /// How wide the terminal is that results go to, at most as wide as is read well; `None` where
    /// they go elsewhere, and whoever reads them may want a line to be a line.
    pub(crate) fn width(&self) -> Option<usize> {
        const WELL_READ: usize = 100;
        const LEAST: usize = 40;
        let stdout = io::stdout();
        let size = rustix::termios::tcgetwinsize(&stdout).ok().filter(|_| stdout.is_terminal())?;
        // A terminal that does not know says 0.
        let columns = if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) };
        Some(columns.clamp(LEAST, WELL_READ))
    }

    /// Something that the reader may want to know.
    pub(crate) fn note(&self, text: impl Display) {
        self.say("note", text);
    }

    /// Something that went differently than hoped; the program goes on.
    pub(crate) fn warning(&self, text: impl Display) {
        self.say("warning", text);
    }

    /// What ends the program.
    pub(crate) fn error(&self, text: impl Display) {
        self.say("error", text);
    }

    fn say(&self, kind: &str, text: impl Display) {
        self.bars.suspend(|| {
            let _ = self.writes.during(|| writeln!(io::stderr().lock(), "{kind}: {text}"));
        });
    }

    /// What clap has to say: help and version to stdout, wrong usage to stderr.
    ///
    /// # Errors
    /// What was asked for could not be written.
    pub(crate) fn usage(&self, error: &clap::Error) -> Result<(), Failure> {
        let printed = error.print().and_then(|()| io::stdout().flush());
        match printed {
            Err(why) if !error.use_stderr() && why.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::new(format!("cannot write to stdout: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// Starts showing how far each of `lines` (name, bytes to come) is.
    pub(crate) fn progress(&self, now: Instant, lines: &[(String, u64)]) -> Progress<'_> {
        let name_chars = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let lines = lines
            .iter()
            .map(|(name, total)| {
                let bar = self.bars.add(ProgressBar::new(*total).with_style(style()));
                bar.set_prefix(format!("{name:name_chars$}"));
                Line { name: name.clone(), total: *total, position: 0, ended: None, bar }
            })
            .collect();
        Progress { output: self, lines, started: now, plain_due: now + PLAIN_EVERY }
    }
}

/// The terminal on stderr, as bars are drawn on it. One that goes away is drawn on no more, and
/// nobody hears of it: indicatif ends the program over an error of it.
#[derive(Debug)]
struct Screen {
    term: Term,
    gone: AtomicBool,
    writes: Arc<Writes>,
}

impl Screen {
    fn new(writes: Arc<Writes>) -> Screen {
        Screen { term: Term::buffered_stderr(), gone: AtomicBool::new(false), writes }
    }

    fn draw(&self, draw: impl FnOnce(&Term) -> io::Result<()>) -> io::Result<()> {
        // Not after the first error either: what it could not write, the terminal's buffer keeps.
        if !self.gone.load(Ordering::Relaxed) && self.writes.during(|| draw(&self.term)).is_err() {
            self.gone.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        TermLike::width(&self.term)
    }

    fn height(&self) -> u16 {
        TermLike::height(&self.term)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.draw(|term| term.move_cursor_up(n))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.draw(|term| term.move_cursor_down(n))
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.draw(|term| term.move_cursor_right(n))
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.draw(|term| term.move_cursor_left(n))
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.draw(|term| term.write_line(line))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(|term| term.write_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw(Term::clear_line)
    }

    fn flush(&self) -> io::Result<()> {
        self.draw(Term::flush)
    }
}

/// How far a thing of many steps is.
pub(crate) struct Steps<'o> {
    output: &'o Output,
    bar: ProgressBar,
    plain_due: Instant,
}

impl Output {
    /// Starts showing steps; how many there are is said with each.
    pub(crate) fn steps(&self) -> Steps<'_> {
        let style = ProgressStyle::with_template("[{bar:24}] {percent:>3} %, {eta} left, {msg}")
            .expect("the template is constant, and a test draws it")
            .progress_chars("=> ");
        let bar = self.bars.add(ProgressBar::new(0).with_style(style));
        Steps { output: self, bar, plain_due: Instant::now() + PLAIN_EVERY }
    }
}

impl Steps<'_> {
    /// `part` of `whole` steps have been made, and the next is `what`.
    pub(crate) fn set(&mut self, part: u64, whole: u64, what: &str) {
        self.bar.set_length(whole);
        self.bar.set_position(part);
        self.bar.set_message(what.to_string());
        let now = Instant::now();
        if !self.output.terminal && now >= self.plain_due {
            self.plain_due = now + PLAIN_EVERY;
            let percent = (part * 100).checked_div(whole).unwrap_or(100);
            self.output.say("progress", format_args!("{percent} %, {what}"));
        }
    }
}

impl Drop for Steps<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.output.bars.remove(&self.bar);
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{prefix} [{bar:24}] {decimal_bytes:>9} of {decimal_total_bytes:<9} \
         {decimal_bytes_per_sec:>11}, {eta} left {msg}",
    )
    .expect("the template is constant, and help's test draws it")
    .progress_chars("=> ")
}

/// How far something is, line by line.
pub(crate) struct Progress<'o> {
    output: &'o Output,
    lines: Vec<Line>,
    started: Instant,
    plain_due: Instant,
}

struct Line {
    name: String,
    total: u64,
    position: u64,
    ended: Option<String>,
    bar: ProgressBar,
}

impl Progress<'_> {
    /// Line number `line` is at `position` bytes.
    pub(crate) fn set(&mut self, line: usize, position: u64) {
        let line = &mut self.lines[line];
        line.position = position.min(line.total);
        if line.ended.is_none() {
            line.bar.set_position(line.position);
        }
    }

    /// Line number `line` will not move any more, and why.
    pub(crate) fn end(&mut self, line: usize, why: impl Display) {
        let line = &mut self.lines[line];
        let why = why.to_string();
        line.bar.abandon_with_message(why.clone());
        line.ended = Some(why);
    }

    /// Says the plain lines when they are due.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.output.terminal || now < self.plain_due {
            return;
        }
        self.plain_due = now + PLAIN_EVERY;
        let took = now - self.started;
        for line in self.lines.iter().filter(|line| line.ended.is_none()) {
            self.output.say("progress", plain(&line.name, line.position, line.total, took));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        for line in &self.lines {
            line.bar.finish_and_clear();
            self.output.bars.remove(&line.bar);
        }
    }
}

/// A line of plain progress. The rate is that of the whole time, which does not jump.
fn plain(name: &str, position: u64, total: u64, took: Duration) -> String {
    let percent = (u128::from(position) * 100).checked_div(u128::from(total)).unwrap_or(100);
    let left = match position {
        0 => "time left unknown".into(),
        _ => {
            let seconds = took.as_secs_f64() * (total - position) as f64 / position as f64;
            // Past any transfer that somebody waits for; also keeps the conversion in range.
            format!("{} left", show_duration(Duration::from_secs_f64(seconds.min(1e9))))
        }
    };
    format!(
        "{name}: {} of {} ({percent} %), {}, {left}",
        show_bytes(position),
        show_bytes(total),
        show_rate(position, took),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_progress_has_rate_and_time_left() {
        let second = Duration::from_secs(1);
        assert_eq!(
            plain("10.0.0.7:80", 500_000_000, 2_000_000_000, second),
            "10.0.0.7:80: 500 MB of 2.00 GB (25 %), 500 MB/s, 3 s left"
        );
        assert_eq!(plain("x", 0, 9, second), "x: 0 B of 9 B (0 %), 0 B/s, time left unknown");
        assert_eq!(plain("x", 0, 0, second), "x: 0 B of 0 B (100 %), 0 B/s, time left unknown");
    }

    #[test]
    fn the_bar_can_be_drawn() {
        let _ = style();
        let _ = Output::new().steps();
    }
}
