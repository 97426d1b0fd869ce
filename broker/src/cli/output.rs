//! What commands print: a table for people, or JSON for programs.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::error::CommandError;

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// JSON on standard output.
    Json,
}

/// The flag of every command that prints data.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArguments {
    /// How to print the result.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

/// Rows under named columns. A column whose name ends in `#` holds numbers and is aligned right;
/// the mark is not printed.
pub struct Rows {
    table: Table,
}

impl Rows {
    /// An empty table with these columns.
    pub fn new(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(columns.iter().map(|name| name.trim_end_matches('#')));
        for (column, name) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 2));
            if name.ends_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table }
    }

    /// Adds a row.
    pub fn push<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.table.add_row(cells);
    }

    /// The table as lines.
    pub fn text(&self) -> String {
        self.table.trim_fmt() + "\n"
    }

    /// Prints the table on standard output.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub fn print(&self) -> Result<(), CommandError> {
        print_text(&self.text())
    }
}

/// Prints `value` as indented JSON on standard output.
///
/// # Errors
/// If standard output cannot be written to.
pub fn print_json<T: Serialize>(value: &T) -> Result<(), CommandError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| CommandError::failure(format!("the result is no JSON: {error}")))?;
    text.push('\n');
    print_text(&text)
}

/// Prints `text` on standard output as it is.
///
/// # Errors
/// If standard output cannot be written to.
pub fn print_text(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| CommandError::io("standard output", &error))
}
