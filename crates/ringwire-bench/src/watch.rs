//! How a measurement reports its progress, and how its caller ends it. Pure.

/// Hears what happens, and can end it.
pub trait Watch {
    /// `part` of `whole` steps have been made; the next is `what`.
    fn step(&mut self, part: u64, whole: u64, what: &str);
    /// Something could not be measured, or means something else than it seems; a sentence.
    fn note(&mut self, text: &str);
    /// Whether to end now, with what there is.
    fn stops(&self) -> bool;
}
