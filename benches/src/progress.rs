//! Progress for whoever watches: redrawn in place on a terminal, plain lines elsewhere.
//!
//! Everything goes to standard error; standard output is for results. Nothing is written at all
//! between two times that are due, so a log of a long run stays short.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shows where a run is.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    due: Instant,
    lines_shown: usize,
}

impl Progress {
    /// Begins at `now`; the first progress is due one interval later.
    pub fn new(now: Instant) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { is_terminal, due: now + interval(is_terminal), lines_shown: 0 }
    }

    /// Whether it is time to show something again. Asks for no clock, so ask often.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Whether somebody watches a terminal.
    pub const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Shows `lines`: in the place of those before on a terminal, else as one line.
    pub fn show(&mut self, now: Instant, lines: &[String]) {
        self.due = now + interval(self.is_terminal);
        let text = if self.is_terminal {
            let text = redraw(self.lines_shown, lines);
            self.lines_shown = lines.len();
            text
        } else {
            format!("{}\n", lines.join(" | "))
        };
        write(&text);
    }

    /// Takes the last progress off a terminal, to make room for results.
    pub fn clear(&mut self) {
        if self.is_terminal {
            write(&redraw(self.lines_shown, &[]));
            self.lines_shown = 0;
        }
    }
}

/// A bar of `width` places, of which `part` (0 to 1) is full.
pub fn bar(part: f64, width: usize) -> String {
    let full = (part.clamp(0.0, 1.0) * width as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(width - full))
}

/// Back to the first of the lines shown, then each new line over an emptied one.
fn redraw(lines_shown: usize, lines: &[String]) -> String {
    let mut text = String::new();
    if lines_shown > 0 {
        text = format!("\x1b[{lines_shown}A\r\x1b[J");
    }
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn write(text: &str) {
    // Nobody may be reading; that is no reason to end a run.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

const fn interval(is_terminal: bool) -> Duration {
    if is_terminal { Duration::from_millis(200) } else { Duration::from_secs(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redraw_takes_the_old_lines_away() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(redraw(0, &lines), "a\nb\n");
        assert_eq!(redraw(2, &lines), "\x1b[2A\r\x1b[Ja\nb\n");
        assert_eq!(redraw(1, &[]), "\x1b[1A\r\x1b[J");
    }

    #[test]
    fn a_bar_is_as_full_as_told() {
        assert_eq!(bar(0.5, 4), "[##..]");
        assert_eq!(bar(7.0, 2), "[##]");
        assert_eq!(bar(-1.0, 2), "[..]");
    }
}
