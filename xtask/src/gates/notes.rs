//! What the benchmark's notes say of what it did not measure. Pure.

/// Why nothing was measured on the gate's wire, from the notes: `nothing can be measured: …`, or
/// `over loopback, which copies, instead of the perfect wire: …`.
pub(super) fn reason(notes: &[String]) -> Option<String> {
    notes.iter().find_map(|note| {
        let (what, why) = note.split_once(": ")?;
        let refused =
            what == "nothing can be measured" || what.ends_with("instead of the perfect wire");
        refused.then(|| why.replace('\n', " "))
    })
}

/// The note about this method, to go on with.
pub(super) fn said_of(method: &str, notes: &[String]) -> String {
    let note = notes.iter().find(|note| first_word(note) == Some(method));
    note.map_or_else(String::new, |note| format!(" ({})", note.replace('\n', " ")))
}

/// The method that a note is about: `ringwire at 4096 B: …`, `ringwire, from 10 sockets: …`.
fn first_word(note: &str) -> Option<&str> {
    note.split([' ', ',', ':']).next()
}

/// The note in which our method says what this host does not have: `ringwire at 4096 B: io_uring is
/// not available: …`. The part after the method's name.
pub(super) fn refusal(ours: &str, notes: &[String]) -> Option<String> {
    notes.iter().find_map(|note| {
        let (_, why) = note.split_once(": ")?;
        let is_ours = first_word(note) == Some(ours);
        (is_ours && why.contains(" is not available: ")).then(|| why.replace('\n', " "))
    })
}
