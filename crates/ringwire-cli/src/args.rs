//! The program's flags, typed and checked, and their help. Pure.
//!
//! What a flag alone can get wrong is an error here, before anything is opened.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringwire_reach::{Malformed, Target};

use crate::protocol::{DATA_BYTES_MAX, DEFAULT_PORT, PROBE_BYTES_MAX};
use crate::units::{parse_bytes, parse_duration};

const NOT_ENCRYPTED: &str = "\
The transfer is not encrypted, and neither end proves who it is: whoever can see the network can \
read the files, and whoever can reach a receiver can store files in its directory. The hash finds \
accidents, not attackers. Use it on a network that you trust, or through a tunnel.";

const EXIT_CODES: &str = "\
Exit codes: 0 every file is stored and verified everywhere, or what this host allows was measured, \
or zero copy can be used; 1 the transfer ended, and some file is not, or zero copy cannot be used; \
2 it could not run, was interrupted, or could not write its result.";

const DOCTOR_AFTER: &str = "\
Each check is a line: ok, warn (something is lost, or could not be seen) or FAIL (zero copy cannot \
be used because of it), what was found, what is needed; and where it is not ok, a hint: who must \
do what. The last line recommends. On a terminal lines are wrapped, elsewhere they are not.

Nobody is sent bytes that were not asked for. --to connects, and no more; a ringwire recv greets \
first, and is then sent 16 MiB that it throws away, counts for no transfer and stores nowhere. To \
any other server bytes go only with --probe-bytes: zeros, on that one connection, which a server \
that expects a protocol will take for junk.

Examples:
  ringwire doctor                         this host, for this user
  ringwire doctor --to 10.0.0.7           and the way to a receiver
  ringwire doctor --to store.example:9000 --probe-bytes 16MiB
                                          and what the kernel says of bytes sent there
  ringwire doctor --json | jq -r '.checks[] | select(.status == \"FAIL\").hint'

Exit codes: 0 zero copy can be used by this user on this host, and with --to nothing that is known \
of that way copies everything; 1 it cannot: a check says FAIL (ringwire delivers all the same, by \
copying); 2 it could not look, or not say what it saw: wrong usage, a name without an address, \
interrupted, a full disk.";

const AFTER_HELP: &str = "The transfer is not encrypted; --help says more.";

/// Sends files to many receivers at once, straight from memory.
#[derive(Debug, Parser)]
#[command(name = "ringwire", version, max_term_width = 100)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Send(Send),
    Recv(Recv),
    Bench(Bench),
    Doctor(Doctor),
}

/// Send files to one or more receivers (ringwire recv)
///
/// Each file is read once, past the page cache where the file system allows it, into memory that is
/// registered where io_uring sends it, and every block of it is lent to all receivers at once. A
/// block's memory is used again when every receiver's kernel has let go of it. Receivers run at
/// their own speed inside the window of blocks that --arena and --block make.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = format!("{NOT_ENCRYPTED}\n\n{EXIT_CODES}"))]
pub(crate) struct Send {
    /// Files to send, each under its last path component
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// A receiver: a name or an address, and a port if it is not 27474, like host.example:9000 or
    /// [2001:db8::7]:9000; may be given many times. All of them must answer, or nothing is sent.
    /// Those that begin are kept while others have to be waited for; two senders that each have
    /// what the other waits for end with --patience, or go on where "ringwire recv --connections"
    /// is 2
    #[expect(rustdoc::broken_intra_doc_links, reason = "an address, shown by --help as it is")]
    #[arg(long = "to", required = true, value_name = "HOST[:PORT]", value_parser = parse_target)]
    pub(crate) receivers: Vec<Target>,

    /// Memory for blocks: the window between the fastest and the slowest receiver
    #[arg(long, default_value = "64MiB", value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) arena: u64,

    /// Size of a block: what is read, and lent, in one piece; 64KiB to 16MiB
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = parse_block)]
    pub(crate) block: u64,

    /// Fail when not all of the arena can be registered, instead of sending it as normal memory
    #[arg(long)]
    pub(crate) require_registered: bool,

    /// How the bytes reach the kernel: the best that works here, or a certain one, or an error.
    /// uring is io_uring; msg-zerocopy does without it; copy copies
    #[arg(long, default_value = "auto", value_name = "ENGINE", value_enum)]
    pub(crate) engine: Engine,

    /// How long a receiver may hold everything up before it is dropped: to answer at the start, to
    /// show any sign of life, or to be through with a block that another one is through with while
    /// no block is free
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) patience: Duration,
}

/// Receive files from ringwire send, verified, into a directory
///
/// Prints the address it listens on as its first line, and a line for each file that it has stored.
/// A file is written to a temporary file (.ringwire-*.partial) in the directory and gets its name
/// when its size and its BLAKE3 hash are right and it is on the disk. It never leaves the
/// directory, never follows a symbolic link, and takes regular files only. Temporary files of
/// receivers that were killed are removed when the next one starts there.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = format!("{NOT_ENCRYPTED}\n\n{EXIT_CODES}"))]
pub(crate) struct Recv {
    /// Where to listen: an address of this host or a name of it, and a port if it is not 27474 (0:
    /// any free one). 0.0.0.0 is all of IPv4, [::] is all of IPv4 and IPv6. Anything but loopback
    /// lets other hosts store files here
    #[expect(rustdoc::broken_intra_doc_links, reason = "an address, shown by --help as it is")]
    #[arg(long, default_value = "127.0.0.1:27474", value_name = "HOST[:PORT]")]
    #[arg(value_parser = parse_listen)]
    pub(crate) listen: Target,

    /// Directory for the files; it must exist
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,

    /// Replace a file that has the name already (a regular file, never anything else)
    #[arg(long)]
    pub(crate) force: bool,

    /// Most bytes that one transfer may bring, all its files together; a file beyond it is refused
    /// before anything is written
    // More than any one image, model or dump that we know of has; less than a disk array, so that
    // neither a typo nor a stranger can fill one.
    #[arg(long, default_value = "1TiB", value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) max_bytes: u64,

    /// Senders served at the same time; the others are told, and wait for their turn
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) connections: NonZeroUsize,

    /// End after N transfers, each with all its files, however they end [default: serve until
    /// SIGINT, SIGTERM or SIGHUP]
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<NonZeroU64>,

    /// How long a sender may be silent before its transfer is ended
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) idle: Duration,
}

/// Measure ways to send side by side, on this machine, with nothing set up
///
/// Without a part: a bit of everything in under 90 seconds, and a verdict in words. TCP and UDP are
/// sent into the perfect wire, a device that drops what it has transmitted in a network namespace
/// of its own, so that zero copy really happens; no rights are needed. Every method gets its best
/// of two kinds of pages and two send buffers; then all run in turn, A B C A B C …
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// The part to measure [default: a bit of everything]
    #[arg(value_enum)]
    pub(crate) part: Option<BenchPart>,

    /// What to send into: perfect copies nothing, loopback and veth copy everything. For bench
    /// wires it may be given many times: perfect, beside another, is then the path that changes
    #[arg(long = "wire", value_name = "WIRE", value_enum, default_value = "perfect")]
    pub(crate) wires: Vec<BenchWire>,

    /// A payload size, like 4KiB; may be given many times [default: the part's own]
    #[arg(long = "size", value_name = "SIZE", value_parser = parse_payload)]
    pub(crate) sizes: Vec<u64>,

    /// What bench wires measures; may be given many times [default: all, with --size: equal]
    #[arg(long = "payloads", value_enum, value_name = "KIND")]
    pub(crate) kinds: Vec<BenchKind>,

    /// A way to send, as the output names them; may be given many times [default: all]
    #[arg(long = "method", value_name = "NAME")]
    pub(crate) methods: Vec<String>,

    /// Memory that payloads are cut from; larger than the caches, or zero copy has little to save
    #[arg(long, default_value = "256MiB", value_name = "SIZE", value_parser = parse_working_set)]
    pub(crate) working_set: u64,

    /// The order of payloads in memory; may be given many times [default: shuffled; bench tcp:
    /// both]
    #[arg(long = "order", value_name = "ORDER", value_enum)]
    pub(crate) orders: Vec<BenchOrder>,

    /// How long one run sends, like 150ms [default: 150ms; without a part: 60ms]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) seconds: Option<Duration>,

    /// Runs of each method, taking turns
    #[arg(long, default_value = "5", value_name = "N")]
    pub(crate) runs: NonZeroU32,

    /// How often the perfect wire looks for bytes to acknowledge, in microseconds, as a network
    /// card's interrupt moderation would; 0 looks all the time
    #[arg(long, default_value = "30", value_name = "N")]
    pub(crate) ack_us: u64,

    /// Write all rows and medians as JSON to a file; - is stdout, which then carries nothing else
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write a page with charts to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Say what this host, its kernel and a path do with zero copy, and what to change
///
/// Looks at the kernel and its bugs, io_uring and MSG_ZEROCOPY (by trying), limits of memory and
/// buffers, network interfaces, packet sockets, IPsec and the IOMMU, and sends a few MiB into the
/// perfect wire. Works for any user, and says what it could not see. Changes nothing. Takes a
/// moment; with a server that is slow to answer up to ten seconds.
#[derive(Args, Debug)]
#[command(after_long_help = DOCTOR_AFTER)]
pub(crate) struct Doctor {
    /// Look at the way to a server too: route, interface, what copies on it, a TCP connection
    #[arg(long, value_name = "HOST[:PORT]", value_parser = parse_target)]
    pub(crate) to: Option<Target>,

    /// Send so many zeros to the server, whatever it is, to see if they are copied; 1MiB to 1GiB
    #[arg(long, value_name = "SIZE", requires = "to", value_parser = parse_probe)]
    pub(crate) probe_bytes: Option<u64>,

    /// Print the report as JSON (docs/DOCTOR.md), on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchPart {
    /// Byte streams, 1 KiB to 4 MiB a payload
    Tcp,
    /// Datagrams, one by one and in trains (GSO batches)
    Udp,
    /// The tables of the kernel's own zero-copy patches of 2022, beside today's figures
    Tables,
    /// One connection over each wire that copies, methods taking turns every few milliseconds
    Wires,
    /// One block to a thousand flows
    Fanout,
    /// One small payload at a time on an idle ring
    Latency,
    /// How cost grows: CPU time a payload with 1 to 10,000 sockets, 16 to 64 Ki payloads in flight
    /// and 1 to 4 rings, and memory a socket and a payload
    Scale,
}

/// What to send into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchWire {
    Perfect,
    Loopback,
    Veth,
}

/// Kinds of rows of bench wires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchKind {
    /// Payloads of one size
    Equal,
    /// Payloads from 64 B to 1 MiB
    Mixed,
    /// Payloads of two pieces, a header of 100 bytes and a body
    #[value(name = "header+body")]
    HeaderBody,
    /// Payloads of one size over a path that copies every other second
    Changing,
}

/// The order of payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchOrder {
    Shuffled,
    Sequential,
}

fn parse_target(text: &str) -> Result<Target, Malformed> {
    Target::to_connect(text, DEFAULT_PORT)
}

fn parse_listen(text: &str) -> Result<Target, Malformed> {
    Target::to_listen(text, DEFAULT_PORT)
}

fn parse_block(text: &str) -> Result<u64, String> {
    const BLOCK_BYTES_MIN: u64 = 64 << 10;
    const PAGE_BYTES: u64 = 4 << 10;
    let bytes = parse_bytes(text)?;
    if !(BLOCK_BYTES_MIN..=u64::from(DATA_BYTES_MAX)).contains(&bytes)
        || !bytes.is_multiple_of(PAGE_BYTES)
    {
        return Err("a block has 64KiB to 16MiB, in whole pages of 4KiB".into());
    }
    Ok(bytes)
}

fn parse_payload(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes @ 1..=PAYLOAD_BYTES_MAX => Ok(bytes),
        _ => Err("a payload has 1 byte to 16MiB".into()),
    }
}

fn parse_probe(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes @ PROBE_BYTES_MIN..=PROBE_BYTES_MAX => Ok(bytes),
        _ => Err("a probe has 1MiB to 1GiB".into()),
    }
}

/// Less is not surely a request of its own, so the kernel's report could not be believed.
const PROBE_BYTES_MIN: u64 = 1 << 20;

/// An arena's largest block.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

fn parse_working_set(text: &str) -> Result<u64, String> {
    const WORKING_SET_BYTES_MIN: u64 = 1 << 20;
    // The kernel registers no larger piece, and the arena needs a little more than this.
    const WORKING_SET_BYTES_MAX: u64 = 1000 << 20;
    match parse_bytes(text)? {
        bytes @ WORKING_SET_BYTES_MIN..=WORKING_SET_BYTES_MAX => Ok(bytes),
        _ => Err("a working set has 1MiB to 1000MiB".into()),
    }
}

/// The engines that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    Auto,
    Uring,
    MsgZerocopy,
    Copy,
}

impl From<Engine> for ringwire::EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Uring => Self::Uring,
            Engine::MsgZerocopy => Self::MsgZerocopy,
            Engine::Copy => Self::Copy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_hold_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_may_leave_out_the_port_and_only_a_listener_s_may_be_0() {
        assert_eq!(parse_target("10.0.0.7").map(|target| target.port()), Ok(27_474));
        assert!(parse_target("10.0.0.7:0").is_err());
        assert_eq!(parse_listen("[::1]").map(|target| target.port()), Ok(27_474));
        assert_eq!(parse_listen("localhost:0").map(|target| target.port()), Ok(0));
    }

    #[test]
    fn blocks_are_whole_pages_within_what_an_arena_hands_out() {
        assert_eq!(parse_block("64KiB"), Ok(65_536));
        assert_eq!(parse_block("16MiB"), Ok(16_777_216));
        for wrong in ["0", "4KiB", "65537", "17MiB", "1MB"] {
            assert!(parse_block(wrong).is_err(), "{wrong}");
        }
    }
}
