//! Printing: tables for people, JSON for programs. Nothing else in this program writes to the
//! standard streams.

use anyhow::Context as _;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// What a command has to say. Its `Serialize` is the JSON form, in which sizes are bytes and times
/// are milliseconds or seconds as the names say.
pub(crate) trait Report: Serialize {
    /// The form for people.
    fn human(&self, page: &mut Page);
    /// Exit status that goes with it.
    fn exit_status(&self) -> u8 {
        0
    }
}

/// Nothing to say: it is done.
#[derive(Serialize)]
pub(crate) struct Done {
    done: bool,
}

impl Done {
    pub(crate) const fn new() -> Self {
        Self { done: true }
    }
}

impl Report for Done {
    fn human(&self, _: &mut Page) {}
}

/// Bytes went to standard output already, whatever the format asked for.
pub(crate) struct Written;

impl Serialize for Written {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl Report for Written {
    fn human(&self, _: &mut Page) {}
}

/// Text for people, built line by line.
#[derive(Default)]
pub(crate) struct Page {
    text: String,
    /// A person reads it, so a name must not be obeyed by the terminal.
    terminal: bool,
}

impl Page {
    /// A name or path as it is to be shown: as it is to a program; to a terminal quoted if it has control characters.
    pub(crate) fn name(&self, name: &str) -> String {
        if self.terminal { quoted(name) } else { name.to_owned() }
    }
    /// Adds a line.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }
    /// Adds `label   value`.
    pub(crate) fn field(&mut self, label: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{label:<14} {value}"); // a String takes everything
    }
    /// Adds a table.
    pub(crate) fn table(&mut self, table: &Table) {
        self.text.push_str(&table.render());
    }
}

/// As GNU ls shows names with control characters: `'a'$'\033''b'`, which a shell reads as the name again.
fn quoted(name: &str) -> String {
    if !name.chars().any(char::is_control) {
        return name.to_owned();
    }
    let mut out = String::from("'");
    let mut escaped = false;
    for letter in name.chars() {
        if letter.is_control() != escaped {
            escaped = !escaped;
            out.push_str(if escaped { "'$'" } else { "''" });
        }
        match letter {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\'' => out.push_str("'\\''"),
            _ if escaped => {
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{byte:03o}"); // a String takes everything
                }
            }
            _ => out.push(letter),
        }
    }
    out.push('\'');
    out
}

/// Where a column's cells go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Columns that are as wide as their widest cell.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Names of the columns; those with only numbers stand to the right.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }
    /// Adds a row with one cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    fn render(&self) -> String {
        let heads: Vec<String> = self.columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        let width =
            |at: usize| std::iter::once(&heads).chain(&self.rows).map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let _ = match align {
                    Align::Left => write!(line, "{cell:<width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints a report in the form asked for and returns its exit status.
pub(crate) fn print<R: Report>(report: &R, json: bool) -> anyhow::Result<u8> {
    let text = if json { as_json(report)? } else { as_text(report) };
    write_all(text.as_bytes())?;
    Ok(report.exit_status())
}

pub(crate) fn as_text(report: &impl Report) -> String {
    let mut page = Page { text: String::new(), terminal: io::stdout().is_terminal() };
    report.human(&mut page);
    page.text
}

fn as_json(report: &impl Report) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(report).context("cannot show the answer as JSON")?;
    Ok(if text == "null" { String::new() } else { text + "\n" })
}

/// Raw bytes to standard output. A reader that went away (`| head`) is no failure.
pub(crate) fn write_all(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("cannot write to standard output"),
    }
}

/// Something to know while a command goes on: to standard error, whatever the format asked for.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}"); // nobody is left to tell
}

/// An error, with its causes, in one line.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = String::from("gfsctl: ");
    for (at, cause) in error.chain().enumerate() {
        let cause = cause.to_string();
        if at == 0 {
            text.push_str(&cause);
        } else if !text.ends_with(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    if watched() {
        // a name in it must not be obeyed; texts of several lines stay what they are
        text = text.split('\n').map(without_controls).collect::<Vec<_>>().join("\n");
    }
    let _ = writeln!(io::stderr(), "{text}"); // nobody is left to tell
}

/// Control characters as `\033`.
fn without_controls(line: &str) -> String {
    let shown = |letter: char| match letter.is_control() {
        true => format!("\\{:03o}", u32::from(letter)),
        false => letter.to_string(),
    };
    line.chars().map(shown).collect()
}

/// True if a person watches.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row(vec!["a".into(), "12345".into()]);
        table.row(vec!["größer".into(), "1".into()]);
        assert_eq!(table.render(), "NAME     SIZE\na       12345\ngrößer      1\n");
    }

    #[test]
    fn names_cannot_command_a_terminal() {
        for (name, shown) in [
            ("plain 'name'", "plain 'name'"),
            ("a\u{1b}[2Jb", "'a'$'\\033''[2Jb'"),
            ("a\nb\t\r", "'a'$'\\n''b'$'\\t\\r'"),
            ("it's\u{7f}", "'it'\\''s'$'\\177'"),
            ("\u{9b}x", "''$'\\302\\233''x'"),
        ] {
            assert_eq!(Page { terminal: true, ..Page::default() }.name(name), shown);
            assert_eq!(Page::default().name(name), name, "a program gets the name itself");
        }
        assert_eq!(without_controls("/a\u{1b}b"), "/a\\033b");
    }

    #[test]
    fn what_was_written_already_is_not_followed_by_json() {
        assert_eq!(as_json(&Written).expect("plain"), "");
        assert_eq!(as_json(&Done::new()).expect("plain"), "{\n  \"done\": true\n}\n");
    }
}
