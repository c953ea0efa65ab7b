//! Tables, numbers and lines of Markdown. Pure.

/// A table in Markdown.
pub(super) struct Table {
    pub(super) text: String,
}

impl Table {
    /// The first column holds names, the others figures.
    pub(super) fn new(head: &[&str]) -> Table {
        let columns: Vec<&str> =
            (0..head.len()).map(|column| if column == 0 { "---" } else { "---:" }).collect();
        Table { text: format!("| {} |\n|{}|", head.join(" | "), columns.join("|")) }
    }

    /// All columns hold words.
    pub(super) fn of_words(head: &[&str]) -> Table {
        Table { text: format!("| {} |\n|{}", head.join(" | "), "---|".repeat(head.len())) }
    }

    /// Whether it has no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.text.lines().count() <= 2
    }

    pub(super) fn row(&mut self, cells: &[String]) {
        self.text += &format!("\n| {} |", cells.join(" | "));
    }
}

/// What stands where there is no figure.
pub(super) fn none() -> String {
    "–".into()
}

/// Three digits of a number, and no exponent; what has more before its point keeps them.
pub(super) fn three_digits(value: f64) -> String {
    if !value.is_finite() {
        return none();
    }
    let before = if value.abs() < 1e-9 { 1 } else { value.abs().log10().floor() as i32 + 1 };
    let after = (3 - before).clamp(0, 6) as usize;
    format!("{value:.after$}")
}

const COLUMNS_MAX: usize = 100;

/// Text in lines that fit.
pub(super) fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= COLUMNS_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.0372, 0.5, 9.876, 98.76, 987.6, 98_765.4].map(three_digits);
        assert_eq!(shown, ["0.00", "0.0372", "0.500", "9.88", "98.8", "988", "98765"]);
        assert_eq!(three_digits(f64::NAN), "–");
    }
}
