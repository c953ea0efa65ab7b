//! Who receives a stream and compares it with what it should be.

use super::*;

/// Reads from a stream and compares, on a thread of its own.
pub(super) struct Reader {
    pub(super) ask: mpsc::Sender<Range<usize>>,
    pub(super) verdict: mpsc::Receiver<Result<(), String>>,
    pub(super) thread: JoinHandle<()>,
}

impl Reader {
    pub(super) fn new(mut peer: TcpStream) -> Reader {
        let (ask, asked) = mpsc::channel::<Range<usize>>();
        let (say, verdict) = mpsc::channel();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 256 * KIB];
            for range in asked {
                let mut compare = || {
                    let mut at = range.start;
                    while at < range.end {
                        let most = buffer.len().min(range.end - at);
                        let read = peer.read(&mut buffer[..most]).map_err(|why| why.to_string())?;
                        if read == 0 {
                            return Err(format!("the stream ended at {at} of {range:?}"));
                        }
                        if buffer[..read] != pattern()[at..at + read] {
                            return Err(format!("wrong bytes in {at}..{} of {range:?}", at + read));
                        }
                        at += read;
                    }
                    Ok(())
                };
                say.send(compare()).unwrap();
            }
            assert_eq!(peer.read(&mut buffer).unwrap(), 0, "bytes that nobody sent");
        });
        Reader { ask, verdict, thread }
    }

    pub(super) fn expect(&self, range: &Range<usize>) {
        self.ask.send(range.clone()).unwrap();
    }

    pub(super) fn judge(&self) {
        self.verdict.recv_timeout(PATIENCE).expect("the reader").unwrap();
    }

    /// The peer sees the end, and nothing before it.
    pub(super) fn end(self) {
        drop(self.ask);
        self.thread.join().unwrap();
    }
}
